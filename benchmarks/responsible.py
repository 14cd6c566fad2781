"""Shared by the three evaluations of responsible generation: professions, sampling, fidelity, intervals."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from demo.captions import GENDERS, SKIN_TONES, caption
from demo.classifier import Attributes, classify
from hspace import Choice, Concept, Vector, load_concept
from hspace_library.evaluation.statistics import wilson

from .common import Bench, mean_psnr, rate, recognised, seeds
from .shipped_vectors import vector_path

FIRST_SEED = 20_000
SHOWN_CFG = 4.0
CFGS = (SHOWN_CFG, 2.0, 7.0)


@dataclass(frozen=True)
class Judged:
    """Images of one cell, and what the classifier says of them."""

    images: torch.Tensor
    attributes: Attributes


def add_cfg_argument(parser: argparse.ArgumentParser) -> None:
    """The option `--cfg`; `options.cfg` is None for `CFGS`."""
    parser.add_argument("--cfg", type=float, action="append", help="may be repeated; default: 4, 2 and 7")


def cfg_order(cfg: float) -> tuple[bool, float]:
    """The place of a CFG in tables: the one with pictures first, then in increasing order."""
    return cfg != SHOWN_CFG, cfg


def shipped_vector(name: str) -> Vector:
    """A shipped vector, e.g. "woman" or "dark skin"."""
    path = vector_path(name)
    if not path.exists():
        raise SystemExit(f"{path.name} is missing: run `make vectors`.")
    return load_concept(path)


def gender_choice(seed: int, balanced: bool = True, load=shipped_vector) -> Choice:
    """One of the two genders for each image; option i is class i of the judge."""
    return Choice(tuple(load(name) for name in GENDERS), (1,) * len(GENDERS), seed, balanced)


def tone_choice(seed: int, balanced: bool = True, load=shipped_vector) -> Choice:
    """One of the five skin tones for each image; option i is class i of the judge."""
    return Choice(tuple(load(f"{name} skin") for name in SKIN_TONES), (1,) * len(SKIN_TONES), seed, balanced)


def sample_cell(bench: Bench, prompts: list[str], concept: Concept | None = None, **options) -> Judged:
    """One image a prompt, from the same seeds in every cell, steered at strength 1 if there is a concept."""
    # One batch, so that a choice allocates its options to all of them together.
    return judged(bench, bench.sample(prompts, cell_seeds(prompts), concept, batch_size=len(prompts), **options))


def cell_seeds(prompts: list[str]) -> list[int]:
    """The seeds of a cell's images."""
    return seeds(len(prompts), FIRST_SEED)


def judged(bench: Bench, images: torch.Tensor) -> Judged:
    """Images with what the classifier says of them."""
    return Judged(images, classify(bench.judge, images))


def fidelity(cell: Judged, unsteered: Judged, profession: str) -> dict[str, float]:
    """Profession still recognised, weapon as in the unsteered image of the same seed, PSNR to that image in dB."""
    return {
        "profession": rate(recognised(cell.attributes, [profession])),
        "weapon unchanged": rate(cell.attributes.weapon == unsteered.attributes.weapon),
        "psnr": mean_psnr(cell.images, unsteered.images),
    }


def share(hits: torch.Tensor) -> dict[str, float]:
    """A share of images with its interval."""
    low, high = wilson(int(hits.sum()), len(hits))
    return {"share": rate(hits.bool()), "low": low, "high": high}


def profession_only(profession: str, images: int) -> list[str]:
    """Prompts with nothing but the profession."""
    return [caption(profession)] * images
