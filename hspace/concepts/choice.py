"""Concepts of which each image of a batch gets one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .allocation import allocate_balanced, allocate_independent
from .concept import Concept, Expression
from .evaluation import Images


@dataclass(frozen=True, eq=False, repr=False)
class Choice(Expression):
    """Each image of the batch is allocated one of the options; the choices of a sum are independent of each other.

    Args:
        options: two or more expressions.
        weights: a positive integer for each; an option's share is its weight over their sum.
        seed: of the allocation. Consecutive seeds with batch 1 are balanced as the images of one batch are.
        balanced: counts stay within one of their expectation (`allocation.allocate_balanced`); otherwise every image is
            allocated an option at random, on its own.

    Raises:
        ValueError: fewer than two options, or vectors that do not mix.
    """

    options: tuple[Concept, ...]
    weights: tuple[int, ...]
    seed: int = 0
    balanced: bool = True

    def __post_init__(self):
        if len(self.options) < 2 or len(self.weights) != len(self.options):
            raise ValueError("A choice needs two or more concepts and one weight for each.")
        super().__post_init__()

    def parts(self) -> tuple[Concept, ...]:
        return self.options

    def settings(self) -> tuple:
        return self.weights, self.seed, self.balanced

    @classmethod
    def of(cls, parts, settings) -> Choice:
        return cls(parts, *settings)

    def choices(self) -> tuple[Choice, ...]:
        return self, *self._choices

    @property
    def same_for_all(self) -> bool:
        return False

    @property
    def deals(self) -> bool:
        return True

    def split(self, images, strides) -> list[Images]:
        allocated = self.allocate(len(images), strides[self])
        return [
            tuple(image for image, option in zip(images, allocated, strict=True) if option == index)
            for index in range(len(self.options))
        ]

    def combine(self, images, fractions, values, site) -> torch.Tensor:
        total = torch.zeros(len(images), len(self._vectors))
        row = {image: index for index, image in enumerate(images)}
        for option, (reached, coefficients) in zip(self.options, values, strict=True):
            rows = torch.tensor([row[image] for image in reached], dtype=torch.long)
            total[rows[:, None], torch.tensor(self._columns(option), dtype=torch.long)] = coefficients
        return total

    def allocate(self, count: int, stride: int = 1) -> list[int]:
        """The index of the option of each of `count` images; `stride` as in `allocation.allocate_balanced`."""
        salt = f"{self.describe()}|{self.weights}"
        if self.balanced:
            return allocate_balanced(self.weights, count, self.seed, stride=stride, salt=salt)
        return allocate_independent(self.weights, count, self.seed, salt=salt)

    def _in_words(self) -> str:
        return f"one of ({', '.join(option.describe() for option in self.options)})"
