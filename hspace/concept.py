"""Concepts as an algebra: immutable expressions that say which directions each image of a batch is given, and how much.

A `Direction` is a vector in h-space. Expressions are made of directions by sums with coefficients; whatever their
shape, they answer two questions, and steering asks no others:

    directions()          the N distinct directions, each `[C, H, W]` or `[C, 1, 1]`
    coefficients(batch)   float32 `[batch, N]`

so that image b is steered by `einsum("bn,nchw->bchw", coefficients, directions)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch


class Concept(ABC):
    """An immutable concept expression; what travels through a graph as CONCEPT_VECTOR."""

    @abstractmethod
    def directions(self) -> tuple[Direction, ...]:
        """The distinct directions of the expression, in order of appearance."""

    @abstractmethod
    def coefficients(self, batch: int) -> torch.Tensor:
        """float32 `[batch, N]`: how much of each of `directions()` each image gets."""

    @abstractmethod
    def describe(self) -> str:
        """The expression in words, e.g. "woman" or "1 x woman - 0.5 x glasses"."""

    def assignment(self, batch: int) -> str:
        """One line an image: what it is given, e.g. "0: woman x 1"."""
        names = [direction.name for direction in self.directions()]
        lines = []
        for index, row in enumerate(self.coefficients(batch).tolist()):
            given = [f"{name} x {value:g}" for name, value in zip(names, row, strict=True) if value]
            lines.append(f"{index}: {', '.join(given) or 'nothing'}")
        return "\n".join(lines)

    def __add__(self, other: Concept) -> Concept:
        return Sum(((1.0, self), (1.0, other)))

    def __mul__(self, factor: float) -> Concept:
        return Sum(((float(factor), self),))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Direction(Concept):
    """One vector in h-space.

    Args:
        tensor: float32 on the CPU, `[C, H, W]`, or `[C, 1, 1]` for a direction without a spatial map.
        name: what people call the concept.
        family: base-model family as `site.HSpaceSite.family` names it.
        metadata: how it was found, strings only; see `vector_file`.
        extra: tensors that continue an interrupted discovery; never saved with a finished vector.
    """

    tensor: torch.Tensor
    name: str
    family: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        if self.tensor.ndim != 3:
            raise ValueError(f"Concept '{self.name}': a direction is [C, H, W], found {list(self.tensor.shape)}.")
        if not torch.isfinite(self.tensor).all():
            raise ValueError(f"Concept '{self.name}' has values that are not finite; find or download it again.")
        object.__setattr__(self, "tensor", self.tensor.detach().to("cpu", torch.float32).contiguous().clone())
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))

    def directions(self) -> tuple[Direction, ...]:
        return (self,)

    def coefficients(self, batch: int) -> torch.Tensor:
        return torch.ones(batch, 1)

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Sum(Concept):
    """`s * a + t * b + ...`; negative coefficients steer away. Raises ValueError where families or channels differ."""

    terms: tuple[tuple[float, Concept], ...]

    def __post_init__(self):
        if not self.terms:
            raise ValueError("A sum of concepts needs at least one term.")
        first = self.directions()[0]
        for direction in self.directions():
            if (direction.family, direction.tensor.shape[0]) != (first.family, first.tensor.shape[0]):
                raise ValueError(
                    f"Concepts of different models do not mix: '{first.name}' is for {first.family} "
                    f"({first.tensor.shape[0]} channels), '{direction.name}' for {direction.family} "
                    f"({direction.tensor.shape[0]} channels). Use vectors found on the same base model."
                )

    def directions(self) -> tuple[Direction, ...]:
        return tuple(dict.fromkeys(d for _, concept in self.terms for d in concept.directions()))

    def coefficients(self, batch: int) -> torch.Tensor:
        column = {direction: index for index, direction in enumerate(self.directions())}
        total = torch.zeros(batch, len(column))
        for factor, concept in self.terms:
            columns = [column[direction] for direction in concept.directions()]
            total[:, columns] += factor * concept.coefficients(batch)
        return total

    def describe(self) -> str:
        return " + ".join(f"{factor:g} x {concept.describe()}" for factor, concept in self.terms).replace("+ -", "- ")
