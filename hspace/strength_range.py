"""From which strength on a vector says all that it has to say, and from which on images begin to break.

Nobody looks at the images: the frozen, unsteered model is asked how well it takes noise off them again. An image that it
denoises better under the concept prompt than under the base prompt shows the concept (a diffusion classifier: Li et al.,
"Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023). One that it denoises much worse, under its best
prompt, than its own unsteered images is unlike anything that it would draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import torch

from . import conditioning as cond
from .learner import Learner
from .objective import mean_square, prediction_scale
from .states import ROLL_OUT_CFG, generator_for, pairs_of_batch

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
IMAGES, STEPS = 8, 10
NOISE_LEVELS = (0.4, 0.55, 0.7)
"""Places in the noise schedule, 0 the noisiest: where details are there to be broken, and little noise hides them."""
BROKEN = 1.5
"""Loss relative to that of unsteered images. On the emoji model professions began to be lost at 1.5 to 2 (docs/discovery.md)."""
SATURATED = 0.9
"""Share of the highest concept rate."""
SATURATES, BREAKS = "strength_saturates", "strength_breaks"
"""Keys of a vector's metadata."""


@dataclass(frozen=True)
class Row:
    """What the model says of its images at one strength: the share with the concept, and their loss under the better of the
    two prompts, relative to that of unsteered images."""

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

        None where none has any, and where the unsteered images have as much: of "no weapon" the model cannot be asked, for
        it finds the prompt without weapons the better one for its own images, armed or not.
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

    def metadata(self) -> dict[str, str]:
        """What a vector's file says of it."""
        found = {SATURATES: self.saturates, BREAKS: self.breaks}
        return {key: f"{value:.3g}" for key, value in found.items() if value is not None}


def range_text(metadata: Mapping[str, str]) -> str:
    """The range that a vector's metadata tell, in words; "" where they tell none that makes sense."""
    start, end = (_positive(metadata.get(key)) for key in (SATURATES, BREAKS))
    parts = [f"the concept is there from strength {start:g} on"] if start else []
    parts += [f"images begin to break at {end:g}"] if end else []
    return ", ".join(parts)


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def measure_range(learner: Learner, shape: tuple[int, int, int]) -> StrengthRange:
    """Draw eight images at each of `STRENGTHS` and judge them, until they break.

    At most 1,872 U-Net evaluations, which count as the learner's; usually about 1,250. Same seeds at each strength, and
    the same noise for each judgement.

    Args:
        learner: finished; its vector is left as it is.
        shape: of a latent, `[C, h, w]`.
    """
    rows: list[Row] = []
    unsteered = None
    with torch.no_grad():
        for strength in (0.0, *STRENGTHS):
            comfy.model_management.throw_exception_if_processing_interrupted()
            without, with_concept = _losses(learner, shape, strength)
            best = min(without.mean().item(), with_concept.mean().item())
            unsteered = unsteered or best
            share = (with_concept < without).double().mean().item()
            rows.append(Row(strength, share, best / unsteered))
            if rows[-1].loss >= BROKEN:
                break
    return StrengthRange(tuple(rows))


def _losses(learner: Learner, shape: tuple[int, int, int], strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss `[IMAGES]` of images at one strength, under the prompt without the concept, and under that with it."""
    roles = ("base", "concept") if "concept" in learner.conds else ("avoid", "base")
    losses = [], []
    for number, start in enumerate(range(0, IMAGES, learner.settings.batch_size)):
        images = min(learner.settings.batch_size, IMAGES - start)
        pairs = pairs_of_batch(learner, images, number)
        prompts = {role: cond.rows(c, [pair % len(c) for pair in pairs]) for role, c in learner.conds.items() if role in
                   ("base", *roles)}  # fmt: skip
        latents = _draw(learner, shape, prompts["base"], images, number, strength)
        judged = _judge(learner, [prompts[role] for role in roles], latents, number)
        for loss, found in zip(losses, judged, strict=True):
            loss.append(found)
    return torch.cat(losses[0]), torch.cat(losses[1])


def _draw(learner: Learner, shape, prompts: list[dict], images: int, number: int, strength: float) -> torch.Tensor:
    """Latents `[images, C, h, w]` under the base prompts, as the sampler sees them."""
    sampling, device = learner.model.model_sampling, learner.vector.device
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS).to(device)
    noise = torch.randn(images, *shape, generator=generator_for(learner.settings.seed, 5, number)).to(device)

    def denoiser(x, sigma, **_):
        (text,) = learner.denoise([prompts], x, sigma, steered=bool(strength), strength=strength * learner.scale)
        (empty,) = learner.denoise([learner.conds["unconditional"]], x, sigma)
        return empty + ROLL_OUT_CFG * (text - empty)

    start = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    return comfy.k_diffusion.sampling.sample_dpmpp_2m(denoiser, start, sigmas, disable=True)


def _judge(learner: Learner, branches: list[list[dict]], latents: torch.Tensor, number: int) -> list[torch.Tensor]:
    """For each branch the mean square error `[images]` of the unsteered model's prediction of noise on the latents."""
    sampling = learner.model.model_sampling
    totals = [torch.zeros(latents.shape[0], device=latents.device) for _ in branches]
    for level, percent in enumerate(NOISE_LEVELS):
        sigma = torch.full((latents.shape[0],), sampling.percent_to_sigma(percent)).to(latents)
        noise = torch.randn(latents.shape, generator=generator_for(learner.settings.seed, 6, number, level)).to(latents)
        x = sampling.noise_scaling(sigma.reshape(-1, 1, 1, 1), noise, latents)
        scale = prediction_scale(sampling, sigma)
        for total, denoised in zip(totals, learner.denoise(branches, x, sigma), strict=True):
            total += mean_square((denoised - latents) * scale)
    return [total / len(NOISE_LEVELS) for total in totals]
