"""The strengths between which a vector works: where nearly all images show the concept, and where they begin to break.

The frozen, unsteered model judges the images: it is asked how well it takes noise off them again. What counts as
evidence of the concept is by how much better it does under the concept prompt than under the base prompt (a diffusion
classifier: Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023). Two references make that
absolute: images of the base prompt, and images of the concept prompt; an image shows the concept where its evidence is
nearer to the latter. An image that it denoises much worse, under its best prompt, than the references is unlike
anything that it would sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import numpy as np
import torch

from ..concepts import VERDICTS
from .addition import Addition
from .distilled import ROLL_OUT_CFG
from .frozen_model import FrozenModel
from .objective import mean_square, prediction_scale
from .streams import Stream, generator

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
IMAGES, STEPS = 8, 10
NOISE_LEVELS = (0.4, 0.55, 0.7)
"""Places in the noise schedule, 0 the noisiest: where details are there to be broken, and little noise hides them."""
BROKEN = 2.0
"""Loss relative to that of unsteered images. The emoji model begins to lose professions there (docs/decisions.md)."""
THERE = 0.85
"""Share of the images, of those of the concept prompt that show the concept, that must show it: seven of eight."""
TELLS_APART = 2.0
"""Standard errors by which the evidence of the two references must differ for the model to be a judge."""
RESAMPLES = 500


@dataclass(frozen=True)
class Row:
    """The model's judgement of its images at one strength.

    Attributes:
        evidence: of each image, by how much better the model denoises it under the concept prompt.
        loss: under the better of the two prompts, relative to that of unsteered images.
    """

    strength: float
    evidence: tuple[float, ...]
    loss: float


@dataclass(frozen=True)
class StrengthRange:
    """Rows of increasing strength, the unsteered one first; none after the first broken one.

    Attributes:
        reference: evidence of images of the concept prompt; empty where no prompt can say the concept, as with `avoid`.
    """

    rows: tuple[Row, ...]
    reference: tuple[float, ...] = ()

    @property
    def tells_apart(self) -> bool:
        """True where the model's evidence tells images of the concept prompt from unsteered ones."""
        if len(self.reference) < 2 or not self.rows:
            return False
        without, with_concept = np.array(self.rows[0].evidence), np.array(self.reference)
        error = np.sqrt(without.var(ddof=1) / len(without) + with_concept.var(ddof=1) / len(with_concept))
        return bool(with_concept.mean() - without.mean() > TELLS_APART * error)

    def shares(self) -> list[float]:
        """By row, the share of the images that show the concept; empty where the model is no judge of it."""
        return self._shares() if self.tells_apart else []

    @property
    def saturates(self) -> float | None:
        """The least strength at which the concept is there: in nearly as many images as the concept prompt shows it in.

        None where there is no such strength, where unsteered images have it already, and where the model is no judge.
        """
        return self._saturates() or None if self.tells_apart else None

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The 95 % interval of `saturates`, by resampling the images; the high end is None beyond those tried."""
        if self.saturates is None:
            return None, None
        random, count = np.random.default_rng(0), len(self.rows[0].evidence)
        found = [self._saturates(random.integers(0, count, count)) for _ in range(RESAMPLES)]
        strengths = [np.inf if strength is None else strength for strength in found]
        low, high = np.quantile(strengths, [0.025, 0.975], method="nearest")
        return float(low), None if np.isinf(high) else float(high)

    @property
    def verdict(self) -> str:
        """Why there is no strength at which the concept begins to be there; "" where there is one, or no judge."""
        if self.tells_apart:
            least = self._saturates()
            return "" if least else VERDICTS[least is not None]
        # Of "no weapon" the model may find the prompt without weapons the better one for any image, armed or not.
        evidence = (self.rows[0].evidence, self.reference)
        there = bool(self.reference) and all((np.array(images) > 0).mean() >= THERE for images in evidence)
        return VERDICTS[1] if there else ""

    @property
    def breaks(self) -> float | None:
        """The strength, between two that were tried, at which images begin to break; None where they never did."""
        for before, after in zip(self.rows, self.rows[1:], strict=False):
            if after.loss >= BROKEN:
                way = (BROKEN - before.loss) / (after.loss - before.loss)
                return before.strength + way * (after.strength - before.strength)
        return None

    def facts(self) -> dict[str, Any]:
        """What a vector's provenance keeps."""
        low, high = self.interval
        return {
            "strength_saturates": self.saturates,
            "strength_saturates_low": low,
            "strength_saturates_high": high,
            "strength_verdict": self.verdict,
            "strength_breaks": self.breaks,
        }

    @property
    def _threshold(self) -> float:
        """Evidence above which an image shows the concept."""
        return float(np.mean(self.rows[0].evidence) + np.mean(self.reference)) / 2

    def _shares(self, images: np.ndarray | slice = slice(None)) -> list[float]:
        return [float((np.array(row.evidence)[images] > self._threshold).mean()) for row in self.rows]

    def _saturates(self, images: np.ndarray | slice = slice(None)) -> float | None:
        """The least sound strength with the concept in most of these images, 0 for unsteered ones."""
        wanted = THERE * (np.array(self.reference) > self._threshold).mean()
        sound = zip(self.rows, self._shares(images), strict=True)
        return next((row.strength for row, share in sound if row.loss < BROKEN and share >= wanted), None)


def measure_range(
    model: FrozenModel, vector: Addition, shape: tuple[int, ...], seed: int, batch_size: int
) -> StrengthRange:
    """Sample eight images at each of `STRENGTHS` and judge them, until they break, and eight of the concept prompt.

    At most 2,080 U-Net evaluations, usually about 1,450. The seeds are the same at each strength, and so is the noise
    of each judgement.

    Args:
        model: with the pairs of prompts that the vector was found on.
        vector: what is judged, at strength 1.
        shape: of a latent, `[C, h, w]`.
        batch_size: images at a time.
    """
    device = next(iter(vector.constants.values())).device

    def judge(add: Addition | None, role: str = "base") -> tuple[torch.Tensor, torch.Tensor]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return _losses(model, add, shape, seed, batch_size, device, role)

    rows: list[Row] = []
    with torch.no_grad():
        reference = judge(None, "concept") if "concept" in model.prompts.roles else None
        unsteered = None
        for strength in (0.0, *STRENGTHS):
            add = vector.scaled(strength) if strength else None
            without, with_concept = judge(add)
            best = min(without.mean().item(), with_concept.mean().item())
            unsteered = unsteered or best
            rows.append(Row(strength, tuple((without - with_concept).tolist()), best / unsteered))
            if rows[-1].loss >= BROKEN:
                break
    return StrengthRange(tuple(rows), () if reference is None else tuple((reference[0] - reference[1]).tolist()))


def _losses(
    model: FrozenModel,
    add: Addition | None,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int,
    device: torch.device,
    role: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses `[IMAGES]` of images of a role's prompts, steered by `add`, under the prompts without the concept and
    under those with it.
    """
    roles = ("base", "concept") if "concept" in model.prompts.roles else ("avoid", "base")
    losses: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for number, start in enumerate(range(0, IMAGES, batch_size)):
        pairs = model.prompts.of_batch(min(batch_size, IMAGES - start), number, seed, keep=False)
        noise = torch.randn(len(pairs), *shape, generator=generator(seed, Stream.RANGE_IMAGES, number)).to(device)
        sigmas = model.sigmas(STEPS).to(device)
        sampled = model.prompts.prompts_of(role, pairs)
        latents = model.sample(sampled, model.pure_noise(noise, sigmas[0]), sigmas, ROLL_OUT_CFG, add)
        prompts = [model.prompts.prompts_of(judge, pairs) for judge in roles]
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
