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

import numpy as np

from ..concepts import VERDICTS
from .addition import Addition
from .image_judge import BROKEN, ImageJudge, Losses, crossing
from .settings import STRENGTHS

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
                return crossing(BROKEN, (before.strength, before.loss), (after.strength, after.loss))
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


def measure_range(judge: ImageJudge, vector: Addition) -> StrengthRange:
    """Sample eight images at each of `STRENGTHS` and judge them, until they break, and eight of the concept prompt.

    At most 2,080 U-Net evaluations, usually about 1,450.

    Args:
        judge: of images of the prompts that the vector was found on.
        vector: what is judged, at strength 1.
    """
    reference = judge.losses(None, "concept") if "concept" in judge.model.prompts.roles else None
    rows: list[Row] = []
    for strength in (0.0, *STRENGTHS):
        losses = judge.losses(vector.scaled(strength)) if strength else judge.unsteered
        rows.append(Row(strength, _evidence(losses), judge.relative(losses)))
        if rows[-1].loss >= BROKEN:
            break
    return StrengthRange(tuple(rows), () if reference is None else _evidence(reference))


def _evidence(losses: Losses) -> tuple[float, ...]:
    without, with_concept = losses
    return tuple((without - with_concept).tolist())
