"""Stage 1: a TAESD-shaped autoencoder, on random crops of composed renders."""

from __future__ import annotations

import json
import random
from pathlib import Path

import comfy.taesd.taesd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..architecture import VAE_WEIGHTS
from .common import autocast, cosine, image_batch, load_checkpoint, save_checkpoint, seed_step, uniform_person
from .renders import SIZE, Renders

SD_LATENT_SCALE = 0.18215
"""`latent_formats.SD15.scale_factor`: MODEL latents are VAE latents times this, and should have unit variance."""
LEARNING_RATE = 1.5e-3


def train(cache: Path, seed: int = 0, steps: int = 8500, batch_size: int = 8, crop: int = 48) -> float:
    """Train, write `vae.safetensors`, and return the PSNR in dB on whole images."""
    renders = Renders(cache)
    torch.manual_seed(seed)
    model = comfy.taesd.taesd.TAESD()
    _initialise(model)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint, start = cache / "vae.ckpt", 0
    if state := load_checkpoint(checkpoint):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in range(start, steps):
        rng = seed_step(seed, step)
        images = image_batch(renders, [uniform_person(rng) for _ in range(batch_size)], rng)
        top, left = rng.randrange(0, SIZE - crop + 1, 8), rng.randrange(0, SIZE - crop + 1, 8)
        images = images[:, :, top : top + crop, left : left + crop].contiguous(memory_format=torch.channels_last)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine(step, steps)
        with autocast():
            latent = model.taesd_encoder(images)
            # A little noise makes the decoder indifferent to the small errors that a sampler leaves behind.
            decoded = model.taesd_decoder(latent + 0.05 * torch.randn_like(latent))
        decoded, latent = decoded.float(), latent.float()
        channels = latent.movedim(1, 0).flatten(1)
        unit = channels.mean(1).square().mean() + (channels.std(1) - 1).square().mean()
        edges = F.l1_loss(decoded.diff(dim=-1), images.diff(dim=-1)) + F.l1_loss(
            decoded.diff(dim=-2), images.diff(dim=-2)
        )
        loss = F.l1_loss(decoded, images) + 0.5 * edges + F.mse_loss(decoded, images) + 0.01 * unit
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"vae {step}/{steps} loss {loss.item():.4f} mse {F.mse_loss(decoded, images).item():.5f}", flush=True)
        if step % 500 == 499:
            save_checkpoint(checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    return finish(renders, model)


def _initialise(model: comfy.taesd.taesd.TAESD) -> None:
    """He initialisation, residual branches damped, output centred on grey; torch's default learns far slower here."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, comfy.taesd.taesd.Block):
                block.conv[-1].weight.mul_(0.2)
        for last in (model.taesd_encoder[-1], model.taesd_decoder[-1]):
            last.weight.mul_(0.5)
        model.taesd_decoder[-1].bias.fill_(0.5)


@torch.no_grad()
def finish(renders: Renders, model: torch.nn.Module) -> float:
    """Measure the latent statistics and the PSNR on whole images, and write the weights."""
    rng = random.Random(1)
    images = image_batch(renders, [uniform_person(rng) for _ in range(64)], rng)
    latent = model.taesd_encoder(images)
    psnr = -10 * torch.log10(F.mse_loss(model.taesd_decoder(latent).clamp(0, 1), images)).item()
    # TAESD.encode gives (encoder(x) / vae_scale) + vae_shift; times SD's scale this has mean 0 and variance 1.
    model.vae_scale.fill_(latent.std() * SD_LATENT_SCALE)
    model.vae_shift.fill_(-latent.mean() / model.vae_scale)
    scaled = (latent / model.vae_scale + model.vae_shift) * SD_LATENT_SCALE
    VAE_WEIGHTS.parent.mkdir(exist_ok=True)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, VAE_WEIGHTS, metadata={"latent_rgb": json.dumps(_preview_colours(scaled, images))})
    return psnr


def _preview_colours(latent: torch.Tensor, images: torch.Tensor) -> list[list[float]]:
    """Least squares of pixels in [-1, 1] on latents: four rows of factors, then the bias, for live previews."""
    pixels = F.avg_pool2d(images, 8).movedim(1, -1).reshape(-1, 3) * 2 - 1
    inputs = latent.movedim(1, -1).reshape(-1, latent.shape[1])
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    return [[round(value, 4) for value in row] for row in torch.linalg.lstsq(inputs, pixels).solution.tolist()]
