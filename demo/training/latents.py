"""Latents of every person, encoded once for the U-Net, and decoded again for the classifier."""

from __future__ import annotations

import random
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F

from ..architecture import UNET_CONFIG, VAE_WEIGHTS, EmojiModel
from ..captions import PROFESSIONS, Person
from .common import PROFESSION_INDEX, autocast, image_batch
from .renders import SIZE, Renders

UNARMED_VARIANTS, ARMED_VARIANTS = 3, 2
SHAPE = (3, len(PROFESSIONS), 2, 5, UNARMED_VARIANTS + ARMED_VARIANTS)
"""Of all people by style, profession, gender, skin tone and variant, as `everybody` lists them."""


def everybody() -> list[Person]:
    """Everybody in every variant, the last variants with a weapon."""
    return [
        Person(style, profession, gender, tone, variant >= UNARMED_VARIANTS)
        for style in range(3)
        for profession in PROFESSIONS
        for gender in range(2)
        for tone in range(5)
        for variant in range(UNARMED_VARIANTS + ARMED_VARIANTS)
    ]


def _autoencoder() -> torch.nn.Module:
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(VAE_WEIGHTS))).first_stage_model.float()
    return vae.to(memory_format=torch.channels_last)


class LatentCache:
    """Latents of every person with a few backgrounds, offsets and mirrorings each, encoded once.

    Args:
        cache: folder of the renders and the latents.
        side: of the images, in pixels; the renders are enlarged to it.

    Attributes:
        latents: float16 `[style, profession, gender, tone, variant, 4, side / 8, side / 8]`; the last variants carry a
            weapon.
    """

    def __init__(self, cache: Path, side: int = SIZE):
        self.cache = cache
        path = cache / ("latents.pt" if side == SIZE else f"latents_{side}.pt")
        if not path.exists():
            torch.save(_encode(Renders(cache), side), path)
        self.latents = torch.load(path, weights_only=True)

    def batch(self, people: list[Person], rng: random.Random) -> torch.Tensor:
        """float32 `[batch, 4, side / 8, side / 8]`, unit variance."""
        rows = []
        for person in people:
            variant = (
                rng.randrange(ARMED_VARIANTS) + UNARMED_VARIANTS if person.weapon else rng.randrange(UNARMED_VARIANTS)
            )
            rows.append(
                self.latents[
                    person.style, PROFESSION_INDEX[person.profession], person.gender, person.skin_tone, variant
                ]
            )
        return torch.stack(rows).float()

    @torch.no_grad()
    def decoded(self) -> torch.Tensor:
        """uint8 `[style, profession, gender, tone, 2, 3, 128, 128]`: an unarmed and an armed variant of each person."""
        path = self.cache / "decoded.pt"
        if not path.exists():
            vae, latent_format = _autoencoder(), EmojiModel(UNET_CONFIG).latent_format
            chosen = self.latents[:, :, :, :, [0, UNARMED_VARIANTS]]
            parts = []
            for latents in chosen.reshape(-1, 4, 16, 16).split(8):
                with autocast():
                    images = vae.decode(latent_format.process_out(latents.float())).float()
                parts.append(((images * 0.5 + 0.5).clamp(0, 1) * 255).round().byte())
            torch.save(torch.cat(parts).view(*chosen.shape[:5], 3, 128, 128), path)
        return torch.load(path, weights_only=True)


@torch.no_grad()
def _encode(renders: Renders, side: int) -> torch.Tensor:
    device = comfy.model_management.get_torch_device()
    vae, latent_format, rng = _autoencoder().to(device), EmojiModel(UNET_CONFIG).latent_format, random.Random(7)
    people, parts = everybody(), []
    for start in range(0, len(people), 8):
        images = image_batch(renders, people[start : start + 8], rng)
        if side != SIZE:
            images = F.interpolate(images, size=(side, side), mode="bicubic").clamp(0, 1)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        with autocast(device.type):
            parts.append(latent_format.process_in(vae.encode(images * 2 - 1).float()).half().cpu())
    return torch.cat(parts).view(*SHAPE, 4, side // 8, side // 8)
