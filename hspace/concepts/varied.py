"""A concept whose strength is drawn anew for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .allocation import draw_uniform
from .concept import Concept, Expression
from .finite import check_finite

DECIMALS = 3
"""Of a drawn strength, so that an assignment states it in full and a person can type it."""


@dataclass(frozen=True, eq=False, repr=False)
class Varied(Expression):
    """A coefficient of its own for each image, drawn evenly from a range.

    What image b of a batch gets depends on the seed, the concept and b alone: not on how many images there are, nor on
    the range, of which it is always the same fraction. The draws for two concepts of a sum are independent.

    Args:
        concept: what is multiplied.
        minimum, maximum: the range, both ends included.
        seed: of the draws.

    Raises:
        ValueError: an end that is not finite, or a minimum above the maximum.
    """

    concept: Concept
    minimum: float
    maximum: float
    seed: int = 0

    def __post_init__(self):
        check_finite("minimum", self.minimum)
        check_finite("maximum", self.maximum)
        if self.minimum > self.maximum:
            raise ValueError(
                f"minimum: found {self.minimum:g}, which is above the maximum of {self.maximum:g}. Exchange the two."
            )
        super().__post_init__()

    def parts(self) -> tuple[Concept, ...]:
        return (self.concept,)

    def settings(self) -> tuple:
        return self.minimum, self.maximum, self.seed

    @classmethod
    def of(cls, parts, settings) -> Varied:
        return cls(parts[0], *settings)

    @property
    def same_for_all(self) -> bool:
        return self.minimum == self.maximum and self._same_for_all

    @property
    def deals(self) -> bool:
        return self.minimum < self.maximum or self._deals

    def draw(self, count: int) -> list[float]:
        """The coefficient of each of the first `count` images of a batch."""
        span = self.maximum - self.minimum
        drawn = (self.minimum + span * share for share in draw_uniform(count, self.seed, self.concept.describe()))
        return [min(max(round(value, DECIMALS), self.minimum), self.maximum) for value in drawn]

    def combine(self, images, fractions, values, site) -> torch.Tensor:
        drawn = self.draw(max(images, default=-1) + 1)
        return torch.tensor([drawn[image] for image in images])[:, None] * values[0][1]

    def in_brackets(self) -> str:
        return f"({self.describe()})"

    def _in_words(self) -> str:
        return f"a random {self.minimum:g} to {self.maximum:g} x {self.concept.in_brackets()}"
