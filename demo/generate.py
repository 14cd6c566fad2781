"""Sample and judge images of the demo model without a server: for its evaluation, the benchmarks and the tests."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import torch

from .classifier import Attributes, classify

STEPS, CFG = 20, 4.0
DECODED_TOGETHER = 8
"""Images: activations of more than these do not fit a CPU's cache, and decoding takes twice as long."""


def encode(clip, texts: list[str]) -> list:
    """CONDITIONING of one entry with a batch dimension: image i gets prompt i."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)[0] for text in texts]
    options = dict(encoded[0][1])
    options["pooled_output"] = torch.cat([entry[1]["pooled_output"] for entry in encoded])
    return [[torch.cat([entry[0] for entry in encoded]), options]]


def noise_for(seeds: list[int]) -> torch.Tensor:
    """`[len(seeds), 4, 16, 16]`; image i depends on its own seed only, whatever the batch."""
    return torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def sample_latents(
    model,
    clip,
    prompts: list[str],
    seeds: list[int],
    *,
    negative: str = "",
    cfg: float = CFG,
    steps: int = STEPS,
    sampler: str = "euler",
    scheduler: str = "normal",
    batch_size: int = 64,
):
    """Latents `[len(prompts), 4, 16, 16]`, prompt i from seed i, as KSampler would make them."""
    latents = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        noise = noise_for(seeds[part])
        latent = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            encode(clip, prompts[part]),
            encode(clip, [negative]),
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=0,
        )
        latents.append(latent)
    return torch.cat(latents)


@torch.inference_mode()
def sample_images(model, clip, vae, prompts: list[str], seeds: list[int], **options) -> torch.Tensor:
    """IMAGE `[len(prompts), 128, 128, 3]`, as VAEDecode would make them of `sample_latents`."""
    return decode(vae, sample_latents(model, clip, prompts, seeds, **options))


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """IMAGE `[B, 128, 128, 3]`, as VAEDecode makes it."""
    return torch.cat([vae.decode(chunk) for chunk in latents.split(DECODED_TOGETHER)])


def sample_and_judge(classifier, *args, **kwargs) -> Attributes:
    """`sample_images`, then `classify`."""
    return classify(classifier, sample_images(*args, **kwargs).clone())
