"""Stage 4: the U-Net, on cached latents and cached contexts, with the epsilon loss and SD's noise schedule."""

from __future__ import annotations

import time
from pathlib import Path

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..architecture import (
    UNET_CONFIG,
    UNET_WEIGHTS,
    EmojiModel,
)
from ..loader import load_clip
from .common import autocast, cosine, initialise, load_checkpoint, random_people, save_checkpoint, seed_step
from .latents import LatentCache

LEARNING_RATE = 8e-4
EMPTY_CAPTION_SHARE = 0.1
"""Of the captions: the encoded empty prompt is the unconditional, as SD 1.x and 2.x were trained."""
EMA_DECAY = 0.999
MIN_SNR_GAMMA = 5.0


class Prompts:
    """Context of captions by the frozen text encoder, each computed once."""

    def __init__(self):
        self.clip = load_clip()
        self.known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> torch.Tensor:
        """float32 `[batch, tokens, channels]`."""
        for caption in captions:
            if caption not in self.known:
                self.known[caption] = self.clip.encode_from_tokens(self.clip.tokenize(caption)).float()[0]
        return torch.stack([self.known[caption] for caption in captions])


def signal_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of the 1000 timesteps, from ComfyUI's own schedule."""
    from comfy.model_sampling import ModelSamplingDiscrete

    sigmas = ModelSamplingDiscrete().sigmas
    return 1 / (1 + sigmas**2).sqrt(), sigmas / (1 + sigmas**2).sqrt()


def train(
    cache: Path,
    seed: int = 0,
    steps: int = 9000,
    batch_size: int = 48,
    stop: int | None = None,
    config: dict = UNET_CONFIG,
    name: str = "unet",
):
    """Train up to step `stop` of a schedule of `steps`, write the averaged weights in float16, and return them."""
    data = LatentCache(cache)
    torch.manual_seed(seed)
    unet = new_unet(config)
    initialise(unet)
    zero_residual_outputs(unet)
    average = AveragedModel(unet, multi_avg_fn=moving_average)
    prompts = Prompts()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    signal, noise_scale = signal_and_noise()
    checkpoint, start = cache / f"{name}.ckpt", 0
    if state := load_checkpoint(checkpoint):
        unet.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    began, losses = time.time(), []
    stop = min(stop or steps, steps)
    for step in range(start, stop):
        rng = seed_step(seed, step)
        people, captions = random_people(rng, batch_size)
        captions = ["" if rng.random() < EMPTY_CAPTION_SHARE else caption for caption in captions]
        latents = data.batch(people, rng)
        # Density proportional to t: what the text decides is decided at high noise, and 16 x 16 pixels show little
        # there.
        noise, t = torch.randn_like(latents), (torch.rand(batch_size).sqrt() * 1000).long()
        noisy = signal[t, None, None, None] * latents + noise_scale[t, None, None, None] * noise
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine(step, steps, warmup=200)
        with autocast():
            predicted = unet(noisy, t, context=prompts(captions))
        snr = (signal[t] / noise_scale[t]) ** 2
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr  # min-SNR weighting (Hang et al. 2023) of an epsilon loss
        loss = ((predicted.float() - noise).square().mean((1, 2, 3)) * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(unet)
        losses.append(loss.item())
        if step % 100 == 99:
            speed = (time.time() - began) / (step + 1 - start)
            print(f"{name} {step + 1}/{steps} loss {sum(losses[-100:]) / 100:.4f} {speed:.2f} s/step", flush=True)
        if step % 500 == 499 or step == stop - 1:
            save_checkpoint(
                checkpoint,
                model=unet.state_dict(),
                average=average.state_dict(),
                optimizer=optimizer.state_dict(),
                step=step + 1,
            )
            if config is UNET_CONFIG:
                write_state(average.module.state_dict())
    return average.module


def new_unet(config: dict = UNET_CONFIG) -> UNetModel:
    """The demo model's U-Net with ComfyUI's layers, its weights not yet set."""
    return UNetModel(**config, **EmojiModel.unet_extra_config, operations=comfy.ops.disable_weight_init)


def moving_average(averages: list[torch.Tensor], values: list[torch.Tensor], count: torch.Tensor) -> None:
    """An exponential moving average that begins as a plain mean."""
    get_ema_multi_avg_fn(min(EMA_DECAY, (1 + int(count)) / (10 + int(count))))(averages, values, count)


def zero_residual_outputs(unet: UNetModel) -> None:
    """Start every residual branch at zero, as SD's U-Net was."""
    for key, parameter in unet.named_parameters():
        if key.startswith("out.2.") or ".out_layers.3." in key or ".proj_out." in key:
            torch.nn.init.zeros_(parameter)


def write_state(state: dict[str, torch.Tensor]) -> None:
    """Write `unet.safetensors` in float16."""
    UNET_WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in state.items()}, UNET_WEIGHTS)
