"""Stage 3: U-Net and text encoder together, on cached latents, with the epsilon loss of DDPM and SD's noise schedule."""

from __future__ import annotations

import copy
import random
import time
from functools import cache as memoize
from pathlib import Path

import comfy.ops
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file

from ..architecture import END_TOKEN, MAX_LENGTH, UNET_CONFIG, EmojiClip, EmojiModel, EmojiTokenizer
from ..captions import PROFESSIONS, Person
from ..loader import TEXT_WEIGHTS, UNET_WEIGHTS, VAE_WEIGHTS
from .common import biased_batch, cosine, image_batch, initialise, load_checkpoint, save_checkpoint
from .renders import Renders

UNARMED_VARIANTS, ARMED_VARIANTS = 3, 2
LEARNING_RATE = 8e-4
EMPTY_CAPTION_SHARE, ZERO_CONTEXT_SHARE = 0.08, 0.02
EMA_DECAY = 0.999


class LatentCache:
    """Latents of every person with a few backgrounds, offsets and mirrorings each, encoded once."""

    def __init__(self, cache: Path):
        path = cache / "latents.pt"
        if not path.exists():
            torch.save(self._encode(Renders(cache)), path)
        self.latents = torch.load(path, weights_only=True)
        self.index = {profession: i for i, profession in enumerate(PROFESSIONS)}

    @staticmethod
    @torch.no_grad()
    def _encode(renders: Renders) -> torch.Tensor:
        """float16 `[style, profession, gender, tone, variant, 4, 16, 16]`; the last variants carry a weapon."""
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(VAE_WEIGHTS))).first_stage_model.float()
        vae = vae.to(memory_format=torch.channels_last)
        scale = EmojiModel(UNET_CONFIG).latent_format
        rng = random.Random(7)
        people = [Person(s, p, g, t, variant >= UNARMED_VARIANTS) for s in range(3) for p in PROFESSIONS
                  for g in range(2) for t in range(5) for variant in range(UNARMED_VARIANTS + ARMED_VARIANTS)]  # fmt: skip
        parts = []
        for start in range(0, len(people), 8):
            images = image_batch(renders, people[start : start + 8], rng).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(scale.process_in(vae.encode(images * 2 - 1).float()).half())
        return torch.cat(parts).view(3, len(PROFESSIONS), 2, 5, UNARMED_VARIANTS + ARMED_VARIANTS, 4, 16, 16)

    def batch(self, people: list[Person], rng: random.Random) -> torch.Tensor:
        """float32 `[batch, 4, 16, 16]`, unit variance."""
        rows = []
        for person in people:
            variant = (
                rng.randrange(ARMED_VARIANTS) + UNARMED_VARIANTS if person.weapon else rng.randrange(UNARMED_VARIANTS)
            )
            rows.append(
                self.latents[person.style, self.index[person.profession], person.gender, person.skin_tone, variant]
            )
        return torch.stack(rows).float()


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


def train(cache: Path, seed: int = 0, steps: int = 8000, batch_size: int = 48, stop: int | None = None,
          config: dict = UNET_CONFIG, name: str = "unet"):  # fmt: skip
    """Train up to step `stop` of a schedule of `steps`, write the averaged weights in float16, and return both modules."""
    data = LatentCache(cache)
    torch.manual_seed(seed)
    rng = random.Random(seed)
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
        rng.seed(seed + start)
        torch.manual_seed(seed + start)
    began, losses = time.time(), []
    stop = min(stop or steps, steps)
    for step in range(start, stop):
        people, captions = biased_batch(rng, batch_size)
        captions = ["" if rng.random() < EMPTY_CAPTION_SHARE else caption for caption in captions]
        latents = data.batch(people, rng)
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (batch_size,))
        noisy = signal[t, None, None, None] * latents + noise_scale[t, None, None, None] * noise
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine(step, steps, warmup=200)
        with torch.autocast("cpu", torch.bfloat16):
            context = text(torch.tensor([_tokens(caption) for caption in captions]))[0]
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
