"""Stage 3: sharpen the autoencoder's decoder, its encoder frozen, so that latents and the U-Net stay as they are.

L1 in pixels and in edges keeps the picture, the classifier's features keep what it shows, and a small patch
discriminator (hinge loss; Isola et al., CVPR 2017; Esser et al., CVPR 2021) asks for edges as sharp as the renders'. A
fifth of the decoder as it was is mixed in again at the end, which takes back colours and edges that are too strong.
"""

from __future__ import annotations

import random
from pathlib import Path

import comfy.taesd.taesd
import comfy.utils
import torch
import torch.nn.functional as F
from safetensors.torch import safe_open, save_file
from torch import nn
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ..architecture import VAE_WEIGHTS
from ..classifier import AttributeClassifier, load_classifier
from .common import autocast, cosine, image_batch, load_checkpoint, save_checkpoint, seed_step, uniform_person
from .renders import SIZE, Renders

LEARNING_RATE = 4e-4
FEATURES, ADVERSARIAL = 0.5, 0.05
"""Weights of the losses beside L1."""
ADVERSARIAL_FROM = 300
NEW_SHARE = 0.8
"""Of the weights: 0.6 has 24.96 dB and a gradient ratio of 0.98, 0.8 24.73 dB and 1.04, 1 24.07 dB and 1.14."""
PICTURE = Path(__file__).parent.parent / "decoder.jpg"
LATENT_NOISE = 0.05
"""What a sampler leaves behind, in units of the encoder's output."""


class PatchDiscriminator(nn.Sequential):
    """Logits `[B, 1, h / 8, w / 8]` of patches being renders rather than decoded, from `[B, 3, h, w]` in [0, 1]."""

    def __init__(self, width: int = 32):
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, 1, 1),
        )


def features(classifier: AttributeClassifier, images: torch.Tensor) -> list[torch.Tensor]:
    """Activations of the classifier's first three stages, each scaled to unit RMS over channels."""
    found, x = [], images - 0.5
    for index, layer in enumerate(classifier.trunk):
        x = layer(x)
        if index in (5, 11, 17):
            found.append(x / x.detach().square().mean(1, keepdim=True).sqrt().clamp_min(1e-3))
        if index == 17:
            break
    return found


def gradient_ratio(images: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean gradient magnitude of images `[B, 3, h, w]` over that of their reference."""

    def magnitude(x: torch.Tensor) -> torch.Tensor:
        return (x.diff(dim=-1)[..., :-1, :].square() + x.diff(dim=-2)[..., :-1].square()).sqrt().mean()

    return (magnitude(images) / magnitude(reference)).item()


def load_autoencoder() -> comfy.taesd.taesd.TAESD:
    """The autoencoder as it is in the repository, float32."""
    model = comfy.taesd.taesd.TAESD()
    model.load_state_dict({k: v.float() for k, v in comfy.utils.load_torch_file(str(VAE_WEIGHTS)).items()})
    return model


def train(cache: Path, seed: int = 0, steps: int = 3000, batch_size: int = 8, crop: int = 64) -> dict[str, float]:
    """Train, write `vae.safetensors`, and return PSNR in dB and the gradient-magnitude ratio on whole images."""
    renders, classifier = Renders(cache), load_classifier().requires_grad_(False)
    torch.manual_seed(seed)
    model = load_autoencoder().to(memory_format=torch.channels_last)
    model.taesd_encoder.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    critic = PatchDiscriminator()
    decoder = model.taesd_decoder
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.95), weight_decay=0.0)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=LEARNING_RATE, betas=(0.5, 0.95), weight_decay=0.0)
    checkpoint, start = cache / "decoder.ckpt", 0
    if state := load_checkpoint(checkpoint):
        model.load_state_dict(state["model"])
        before = state["before"]
        critic.load_state_dict(state["critic"])
        optimizer.load_state_dict(state["optimizer"])
        critic_optimizer.load_state_dict(state["critic_optimizer"])
        start = state["step"]
    for step in range(start, steps):
        rng = seed_step(seed + 1, step)
        images = image_batch(renders, [uniform_person(rng) for _ in range(batch_size)], rng)
        top, left = rng.randrange(0, SIZE - crop + 1, 8), rng.randrange(0, SIZE - crop + 1, 8)
        if rng.random() < 0.6:  # faces are in the upper half
            top, left = rng.randrange(0, 33, 8), rng.randrange(16, 49, 8)
        images = images[:, :, top : top + crop, left : left + crop].contiguous(memory_format=torch.channels_last)
        for group in (*optimizer.param_groups, *critic_optimizer.param_groups):
            group["lr"] = LEARNING_RATE * cosine(step, steps)
        with autocast():
            with torch.no_grad():
                latent = model.taesd_encoder(images)
            noise = LATENT_NOISE * torch.rand(batch_size, 1, 1, 1) * 2 * torch.randn_like(latent)
            decoded = decoder(latent + noise)
        decoded = decoded.float()
        edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (-1, -2))
        loss = F.l1_loss(decoded, images) + 0.5 * edges
        with autocast():
            pairs = zip(features(classifier, decoded), features(classifier, images), strict=True)
            perceptual = sum(F.l1_loss(a.float(), b.float()) for a, b in pairs)
        loss = loss + FEATURES * 0.1 * perceptual
        adversarial = torch.zeros(())
        if step >= ADVERSARIAL_FROM:
            with autocast():
                adversarial = -critic(decoded).float().mean()
            loss = loss + ADVERSARIAL * adversarial
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if step >= ADVERSARIAL_FROM // 2:
            with autocast():
                real, fake = critic(images).float(), critic(decoded.detach()).float()
            critic_loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            critic_optimizer.zero_grad()
            critic_loss.backward()
            critic_optimizer.step()
        if step % 100 == 0:
            ratio = gradient_ratio(decoded.detach(), images)
            print(
                f"decoder {step}/{steps} l1 {F.l1_loss(decoded, images).item():.4f} features {perceptual.item():.3f} "
                f"adversarial {adversarial.item():.2f} gradients {ratio:.2f}",
                flush=True,
            )
        if step % 500 == 499 or step == steps - 1:
            save_checkpoint(
                checkpoint,
                before=before,
                model=model.state_dict(),
                critic=critic.state_dict(),
                step=step + 1,
                optimizer=optimizer.state_dict(),
                critic_optimizer=critic_optimizer.state_dict(),
            )
    state = model.state_dict()
    model.load_state_dict({key: torch.lerp(before[key], state[key], NEW_SHARE) for key in state})
    write(model)
    picture(renders, before, model.state_dict())
    return measure(renders, model)


def weights_before(cache: Path) -> dict[str, torch.Tensor] | None:
    """Those of the autoencoder before its decoder was trained on; None where this cache saw no such training."""
    state = load_checkpoint(cache / "decoder.ckpt")
    return state and state["before"]


@torch.no_grad()
def picture(renders: Renders, *weights: dict[str, torch.Tensor], path: Path = PICTURE) -> None:
    """Faces at twice their size: renders in the first row, what an autoencoder makes of them in each further one."""
    rng = random.Random(1)
    images = image_batch(renders, [uniform_person(rng) for _ in range(8)], rng)
    rows = [images]
    for state in weights:
        model = comfy.taesd.taesd.TAESD()
        model.load_state_dict(state)
        rows.append(model.taesd_decoder(model.taesd_encoder(images)).clamp(0, 1))
    faces = F.interpolate(torch.cat(rows)[:, :, 16:80, 32:96], scale_factor=2)
    to_pil_image(make_grid(faces, nrow=8, padding=0)).save(path, quality=90)


def write(model: nn.Module) -> None:
    """Write `vae.safetensors` in float16, with the preview colours that it had."""
    with safe_open(VAE_WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, VAE_WEIGHTS, metadata)


@torch.no_grad()
def measure(renders: Renders, model: nn.Module) -> dict[str, float]:
    """PSNR in dB and gradient-magnitude ratio on 64 whole images."""
    rng = random.Random(1)
    images = image_batch(renders, [uniform_person(rng) for _ in range(64)], rng)
    decoded = torch.cat([model.taesd_decoder(model.taesd_encoder(part)).clamp(0, 1) for part in images.split(8)])
    psnr = -10 * torch.log10(F.mse_loss(decoded, images)).item()
    return {"PSNR, dB": psnr, "gradient ratio": gradient_ratio(decoded, images)}
