"""What the three evaluations of responsible generation share: professions, drawing, fidelity, intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..demo.captions import GENDERS, MOSTLY_MEN, MOSTLY_WOMEN, PROFESSION_INDEX, SKIN_TONES, caption
from ..demo.classifier import Attributes, classify
from ..hspace.balance import deviation_ratio
from ..hspace.concept import Choice, Concept, Direction
from ..hspace.vector_file import load_direction
from .common import Bench, mean_psnr, percent
from .shipped_vectors import vector_path

UNSEEN = [name for pair in zip(list(MOSTLY_MEN)[1::2], list(MOSTLY_WOMEN)[1::2], strict=True) for name in pair]
"""Professions that no shipped vector was found on, alternating between those drawn as men and as women."""
BOOTSTRAPS = 1000
FIRST_SEED = 20_000


@dataclass(frozen=True)
class Drawn:
    """Images of one cell with what the judge sees in them."""

    images: torch.Tensor
    seen: Attributes


def vector(name: str) -> Direction:
    """A shipped vector, e.g. "woman" or "dark skin"."""
    path = vector_path(name)
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `make vectors`.")
    return load_direction(path)


def gender_choice(seed: int, balanced: bool = True, load=vector) -> Choice:
    """One of the two genders for each image; option i is class i of the judge."""
    return Choice(tuple(load(name) for name in GENDERS), (1,) * len(GENDERS), seed, balanced)


def tone_choice(seed: int, balanced: bool = True, load=vector) -> Choice:
    """One of the five skin tones for each image; option i is class i of the judge."""
    return Choice(tuple(load(f"{name} skin") for name in SKIN_TONES), (1,) * len(SKIN_TONES), seed, balanced)


def draw_cell(bench: Bench, prompts: list[str], concept: Concept | None = None, **options) -> Drawn:
    """One image a prompt, image i from seed FIRST_SEED + i in every cell, steered at strength 1 where there is a concept."""
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    # One batch, so that a choice draws for all of them together.
    images = bench.draw(prompts, seeds, concept, batch_size=len(prompts), **options)
    return Drawn(images, classify(bench.judge, images))


def fidelity(drawn: Drawn, unsteered: Drawn, profession: str) -> dict[str, float]:
    """Profession still recognised, weapon as in the unsteered image of the same seed, PSNR to that image in dB."""
    return {
        "profession": (drawn.seen.profession == PROFESSION_INDEX[profession]).double().mean().item(),
        "weapon unchanged": (drawn.seen.weapon == unsteered.seen.weapon).double().mean().item(),
        "psnr": mean_psnr(drawn.images, unsteered.images),
    }


def deviation_of(classes: torch.Tensor, count: int) -> float:
    """Deviation ratio of the classes `[images]` that images show, of `count` there are."""
    return deviation_ratio(torch.bincount(classes, minlength=count).tolist())


def mean_deviation(groups: list[torch.Tensor], count: int) -> tuple[float, float, float]:
    """Mean deviation ratio over groups of classes, with its 95 % interval.

    1.96 standard errors to each side, by bootstrap of the images within groups. Not the quantiles of the bootstrap: a
    resampled group is less even than the group itself, so those of an even one lie above its own value.
    """
    rng = np.random.default_rng(0)
    means = []
    for _ in range(BOOTSTRAPS):
        resampled = (group[torch.from_numpy(rng.integers(len(group), size=len(group)))] for group in groups)
        means.append(np.mean([deviation_of(group, count) for group in resampled]))
    mean, half = float(np.mean([deviation_of(group, count) for group in groups])), 1.96 * float(np.std(means))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, share = 1.96, successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def share(hits: torch.Tensor) -> dict[str, float]:
    """A share of images with its interval."""
    low, high = wilson(int(hits.sum()), len(hits))
    return {"share": hits.double().mean().item(), "low": low, "high": high}


def with_interval(value: float, images: int) -> str:
    """ "96.1 % (94.6 to 97.2)": a share of so many images, with its 95 % interval."""
    low, high = wilson(round(value * images), images)
    return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"


def unnamed(profession: str, images: int) -> list[str]:
    """Prompts with nothing but the profession."""
    return [caption(profession)] * images
