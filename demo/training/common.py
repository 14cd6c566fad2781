"""Shared by the training stages: batches of composed images, learning-rate schedule, resumable checkpoints."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch

from ..captions import PROFESSION_INDEX, PROFESSIONS, Person, random_person
from ..loader import fast_dtype
from .renders import Renders


def uniform_person(rng: random.Random) -> Person:
    """A person with every attribute drawn uniformly, for the classifier and the VAE, which must not inherit a bias."""
    return Person(
        rng.randrange(3), rng.choice(list(PROFESSIONS)), rng.randrange(2), rng.randrange(5), rng.random() < 0.35
    )


def held_out(person: Person) -> bool:
    """True where this combination of style, profession, gender and skin tone is held out for testing: one in ten."""
    key = ((person.style * 64 + PROFESSION_INDEX[person.profession]) * 2 + person.gender) * 5 + person.skin_tone
    return (key * 2654435761 >> 7) % 10 == 0


def image_batch(renders: Renders, people: list[Person], rng: random.Random) -> torch.Tensor:
    """`[batch, 3, 128, 128]` float32 in [0, 1]."""
    images = np.stack([renders.compose(person, rng) for person in people])
    return torch.from_numpy(images).movedim(-1, 1).float() / 255


def labels(people: list[Person]) -> dict[str, torch.Tensor]:
    """Class indices `[batch]` under the keys of `classifier.HEADS`."""
    return {
        "gender": torch.tensor([p.gender for p in people]),
        "skin_tone": torch.tensor([p.skin_tone for p in people]),
        "profession": torch.tensor([PROFESSION_INDEX[p.profession] for p in people]),
        "weapon": torch.tensor([int(p.weapon) for p in people]),
    }


def autocast(device: str = "cpu") -> torch.autocast:
    """The context of a forward pass in `loader.fast_dtype`."""
    return torch.autocast(device, torch.bfloat16, enabled=fast_dtype() is torch.bfloat16)


def random_people(rng: random.Random, count: int) -> tuple[list[Person], list[str]]:
    """People and captions as the U-Net sees them, biased."""
    people, captions, _ = zip(*(random_person(rng) for _ in range(count)), strict=True)
    return list(people), list(captions)


def seed_step(seed: int, step: int) -> random.Random:
    """Seed torch and return a generator for one step, so that a resumed training equals an uninterrupted one."""
    torch.manual_seed(seed * 1_000_003 + step)
    return random.Random(seed * 1_000_003 + step)


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: linear warm-up, then cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def initialise(module: torch.nn.Module) -> None:
    """Torch's default initialisation for ComfyUI's layers, which are built without one."""
    for layer in module.modules():
        for kind in (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Embedding):
            if isinstance(layer, kind):
                kind.reset_parameters(layer)


def save_checkpoint(path: Path, **state) -> None:
    """Write atomically, so that an interruption never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict | None:
    """The state that `save_checkpoint` wrote, or None."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
