"""Stage 3: U-Net and text encoder together, on cached latents, with the epsilon loss of DDPM and SD's noise schedule."""

from __future__ import annotations

import copy
import time
from functools import cache as memoize
from pathlib import Path

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file

from ..architecture import (
    END_TOKEN,
    MAX_LENGTH,
    TEXT_WEIGHTS,
    UNET_CONFIG,
    UNET_WEIGHTS,
    EmojiClip,
    EmojiModel,
    EmojiTokenizer,
)
from .common import biased_batch, cosine, initialise, load_checkpoint, save_checkpoint, seed_step
from .latents import LatentCache

LEARNING_RATE = 8e-4
EMPTY_CAPTION_SHARE, ZERO_CONTEXT_SHARE = 0.08, 0.02
EMA_DECAY = 0.999


@memoize
def _tokenizer():
    return EmojiTokenizer().tokenizer


@memoize
def _tokens(text: str) -> tuple[int, ...]:
    tokens = _tokenizer()(text)["input_ids"]
    return (*tokens, *[END_TOKEN] * (MAX_LENGTH - len(tokens)))


def _signal_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of the 1000 timesteps, from ComfyUI's own schedule."""
    from comfy.model_sampling import ModelSamplingDiscrete

    sigmas = ModelSamplingDiscrete().sigmas
    return 1 / (1 + sigmas**2).sqrt(), sigmas / (1 + sigmas**2).sqrt()


def train(cache: Path, seed: int = 0, steps: int = 6500, batch_size: int = 48, stop: int | None = None,
          config: dict = UNET_CONFIG, name: str = "unet"):  # fmt: skip
    """Train up to step `stop` of a schedule of `steps`, write the averaged weights in float16, and return both modules."""
    data = LatentCache(cache)
    torch.manual_seed(seed)
    unet = UNetModel(**config, **EmojiModel.unet_extra_config, operations=comfy.ops.disable_weight_init)
    text = EmojiClip(dtype=torch.float32).transformer.requires_grad_(True)
    model = torch.nn.ModuleDict({"unet": unet, "text": text})
    initialise(model)
    _zero_residual_outputs(unet)
    torch.nn.init.normal_(text.get_input_embeddings().weight, std=0.05)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    signal, noise_scale = _signal_and_noise()
    checkpoint, start = cache / f"{name}.ckpt", 0
    if state := load_checkpoint(checkpoint):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    began, losses = time.time(), []
    stop = min(stop or steps, steps)
    for step in range(start, stop):
        rng = seed_step(seed, step)
        people, captions = biased_batch(rng, batch_size)
        captions = ["" if rng.random() < EMPTY_CAPTION_SHARE else caption for caption in captions]
        latents = data.batch(people, rng)
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (batch_size,))
        noisy = signal[t, None, None, None] * latents + noise_scale[t, None, None, None] * noise
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine(step, steps, warmup=200)
        with torch.autocast("cpu", torch.bfloat16):
            context = encode(text, torch.tensor([_tokens(caption) for caption in captions]))
            # ConditioningZeroOut is the other empty prompt that people wire up.
            context = context * (torch.rand(batch_size, 1, 1) >= ZERO_CONTEXT_SHARE)
            predicted = unet(noisy, t, context=context)
        loss = F.mse_loss(predicted.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.item())
        if step % 100 == 99:
            speed = (time.time() - began) / (step + 1 - start)
            print(f"{name} {step + 1}/{steps} loss {sum(losses[-100:]) / 100:.4f} {speed:.2f} s/step", flush=True)
        if step % 500 == 499 or step == stop - 1:
            save_checkpoint(checkpoint, model=model.state_dict(), average=average.state_dict(),
                            optimizer=optimizer.state_dict(), step=step + 1)  # fmt: skip
            if config is UNET_CONFIG:
                write_weights(average)
    return average


def encode(text: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """`text(tokens)[0]`, differentiable: ComfyUI's own forward adds in place what the layer norms need for backward."""
    transformer = text.text_model
    x = transformer.embeddings(tokens)
    mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max).triu_(1)
    for layer in transformer.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), mask, attention_pytorch)
        x = x + layer.mlp(layer.layer_norm2(x))
    return transformer.final_layer_norm(x)


def _zero_residual_outputs(unet: UNetModel) -> None:
    """Start every residual branch at zero, as SD's U-Net was."""
    for key, parameter in unet.named_parameters():
        if key.startswith("out.2.") or ".out_layers.3." in key or ".proj_out." in key:
            torch.nn.init.zeros_(parameter)


def write_weights(model: torch.nn.ModuleDict) -> None:
    """Write `unet.safetensors` and `text_encoder.safetensors` in float16."""
    for module, path in ((model["unet"], UNET_WEIGHTS), (model["text"], TEXT_WEIGHTS)):
        path.parent.mkdir(exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in module.state_dict().items()}, path)
