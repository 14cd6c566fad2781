"""A concept whose strength moves along a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .concept import Concept, Expression
from .finite import check_finite


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Expression):
    """A coefficient that moves evenly from the first image of a batch to the last; a single image gets `start`.

    Raises:
        ValueError: a start or end that is not finite.
    """

    concept: Concept
    start: float
    end: float

    def __post_init__(self):
        check_finite("from", self.start)
        check_finite("to", self.end)
        super().__post_init__()

    def parts(self) -> tuple[Concept, ...]:
        return (self.concept,)

    def settings(self) -> tuple:
        return self.start, self.end

    @classmethod
    def of(cls, parts, settings) -> Sweep:
        return cls(parts[0], settings[0], settings[1])

    @property
    def same_for_all(self) -> bool:
        return self.start == self.end and self._same_for_all

    @property
    def moves_along_batch(self) -> bool:
        return self.start != self.end or self._moves

    def combine(self, images, fractions, values, site) -> torch.Tensor:
        factors = self.start + (self.end - self.start) * fractions
        return factors[:, None] * values[0][1]

    def in_brackets(self) -> str:
        return f"({self.describe()})"

    def _in_words(self) -> str:
        return f"{self.start:g} to {self.end:g} x {self.concept.in_brackets()}"
