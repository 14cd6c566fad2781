"""Sample images of any checkpoint, as KSampler and VAE Decode would make them."""

from __future__ import annotations

import comfy.sample
import torch

from .checkpoints import Loaded, conditioning


def noise_for(loaded: Loaded, seeds: list[int], width: int, height: int) -> torch.Tensor:
    """`[len(seeds), C, height / 8, width / 8]`; image i depends on its own seed only, whatever the batch."""
    shape = loaded.model.get_model_object("latent_format").latent_channels, height // 8, width // 8
    return torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def sample(
    loaded: Loaded,
    model,
    prompt: str,
    seeds: list[int],
    *,
    width: int,
    height: int,
    steps: int,
    cfg: float,
    negative: str = "",
) -> torch.Tensor:
    """IMAGE `[len(seeds), height, width, 3]` of one prompt, by Euler's method on the normal schedule.

    Args:
        model: ModelPatcher, that of `loaded` or a steered clone of it.
    """
    noise = noise_for(loaded, seeds, width, height)
    positive, empty = (conditioning(loaded.clip, [text]) for text in (prompt, negative))
    latents = comfy.sample.sample(
        model, noise, steps, cfg, "euler", "normal", positive, empty, torch.zeros_like(noise), disable_pbar=True, seed=0
    )
    return decode(loaded, latents)


def decode(loaded: Loaded, latents: torch.Tensor) -> torch.Tensor:
    """IMAGE `[B, H, W, 3]` in [0, 1], one image at a time, so that memory does not grow with the batch."""
    return torch.cat([loaded.vae.decode(latent) for latent in latents.split(1)]).float().cpu()


def tiles(images: torch.Tensor, columns: int) -> torch.Tensor:
    """`[H, W, 3]`: images `[B, H, W, 3]` in rows of so many."""
    rows = [torch.cat(list(row), dim=1) for row in images.split(columns)]
    return torch.cat(rows, dim=0)
