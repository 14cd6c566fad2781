"""The strengths between which a vector works: where nearly all images show the concept, and where they begin to break.

The frozen, unsteered model judges the images: it is asked how well it takes noise off them again. An image that it
denoises better under the concept prompt than under the base prompt shows the concept (a diffusion classifier: Li et
al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023). One that it denoises much worse, under its
best prompt, than its own unsteered images is unlike anything that it would sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import torch

from .distilled import ROLL_OUT_CFG
from .frozen_model import Addition, FrozenModel
from .objective import mean_square, prediction_scale
from .streams import Stream, generator

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
IMAGES, STEPS = 8, 10
NOISE_LEVELS = (0.4, 0.55, 0.7)
"""Places in the noise schedule, 0 the noisiest: where details are there to be broken, and little noise hides them."""
BROKEN = 1.5
"""Loss relative to that of unsteered images. On the emoji model professions began to be lost at 1.5 to 2
(docs/decisions.md).
"""
SATURATED = 0.9
"""Share of the highest concept rate."""


@dataclass(frozen=True)
class Row:
    """The model's judgement of its images at one strength.

    Attributes:
        concept: share of the images with the concept.
        loss: under the better of the two prompts, relative to that of unsteered images.
    """

    strength: float
    concept: float
    loss: float


@dataclass(frozen=True)
class StrengthRange:
    """Rows of increasing strength, the unsteered one first; none after the first broken one."""

    rows: tuple[Row, ...]

    @property
    def saturates(self) -> float | None:
        """The least strength with nearly as much of the concept as any that breaks nothing.

        None where none has any, and where the unsteered images have as much: of "no weapon" the model cannot be asked,
        for it finds the prompt without weapons the better one for its own images, armed or not.
        """
        sound = [row for row in self.rows if row.loss < BROKEN]
        most = max((row.concept for row in sound), default=0.0)
        strength = next((row.strength for row in sound if most and row.concept >= SATURATED * most), None)
        return strength or None

    @property
    def breaks(self) -> float | None:
        """The strength, between two that were tried, at which images begin to break; None where they never did."""
        for before, after in zip(self.rows, self.rows[1:], strict=False):
            if after.loss >= BROKEN:
                way = (BROKEN - before.loss) / (after.loss - before.loss)
                return before.strength + way * (after.strength - before.strength)
        return None


def measure_range(
    model: FrozenModel, vector: Addition, shape: tuple[int, ...], seed: int, batch_size: int
) -> StrengthRange:
    """Sample eight images at each of `STRENGTHS` and judge them, until they break.

    At most 1,872 U-Net evaluations, usually about 1,250. The seeds are the same at each strength, and so is the noise
    of each judgement.

    Args:
        model: with the pairs of prompts that the vector was found on.
        vector: by site, float32 `[C, H, W]` or `[C, 1, 1]` on the model's device.
        shape: of a latent, `[C, h, w]`.
        batch_size: images at a time.
    """
    rows: list[Row] = []
    unsteered = None
    with torch.no_grad():
        for strength in (0.0, *STRENGTHS):
            comfy.model_management.throw_exception_if_processing_interrupted()
            add = {site: strength * tensor for site, tensor in vector.items()} if strength else None
            without, with_concept = _losses(model, add, shape, seed, batch_size, next(iter(vector.values())).device)
            best = min(without.mean().item(), with_concept.mean().item())
            unsteered = unsteered or best
            share = (with_concept < without).double().mean().item()
            rows.append(Row(strength, share, best / unsteered))
            if rows[-1].loss >= BROKEN:
                break
    return StrengthRange(tuple(rows))


def _losses(
    model: FrozenModel,
    add: Addition | None,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses `[IMAGES]` of images steered by `add`, under the prompts without the concept and under those with it."""
    roles = ("base", "concept") if "concept" in model.prompts.roles else ("avoid", "base")
    losses: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for number, start in enumerate(range(0, IMAGES, batch_size)):
        pairs = model.prompts.of_batch(min(batch_size, IMAGES - start), number, seed)
        noise = torch.randn(len(pairs), *shape, generator=generator(seed, Stream.RANGE_IMAGES, number)).to(device)
        sigmas = model.sigmas(STEPS).to(device)
        base = model.prompts.prompts_of("base", pairs)
        latents = model.sample(base, model.pure_noise(noise, sigmas[0]), sigmas, ROLL_OUT_CFG, add)
        prompts = [model.prompts.prompts_of(role, pairs) for role in roles]
        for total, loss in zip(losses, _judge(model, prompts, latents, seed, number), strict=True):
            total.append(loss)
    return torch.cat(losses[0]), torch.cat(losses[1])


def _judge(
    model: FrozenModel, prompts: list[list[dict]], latents: torch.Tensor, seed: int, number: int
) -> list[torch.Tensor]:
    """Mean square error `[B]` of the unsteered model's prediction of noise on the latents, by prompt."""
    sampling = model.sampling
    totals = [torch.zeros(latents.shape[0], device=latents.device) for _ in prompts]
    for level, percent in enumerate(NOISE_LEVELS):
        sigma = torch.full((latents.shape[0],), sampling.percent_to_sigma(percent)).to(latents)
        noise = torch.randn(latents.shape, generator=generator(seed, Stream.RANGE_JUDGEMENT, number, level)).to(latents)
        x = sampling.noise_scaling(sigma.reshape(-1, 1, 1, 1), noise, latents)
        scale = prediction_scale(sampling, sigma)
        for total, denoised in zip(totals, model.predict(prompts, x, sigma), strict=True):
            total += mean_square((denoised - latents) * scale)
    return [total / len(NOISE_LEVELS) for total in totals]
