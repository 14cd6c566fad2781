"""Concepts as an algebra: immutable expressions that give each image of a batch some of each vector.

A `Vector` is the simplest concept. Sums, choices and sweeps make expressions of them, nested to any depth. Whatever its
shape, an expression answers two questions, and steering asks no others:

    vectors()             the N distinct vectors, each `[C, H, W]` or `[C, 1, 1]`
    coefficients(batch)   float32 `[batch, N]`

so that image b is steered by `einsum("bn,nchw->bchw", coefficients, vectors)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .allocation import allocate_balanced, allocate_independent
from .assignment import Assignment, Share

if TYPE_CHECKING:
    from .vector import Vector


class Concept(ABC):
    """An immutable concept expression; what travels through a graph as CONCEPT_VECTOR."""

    @abstractmethod
    def parts(self) -> tuple[Concept, ...]:
        """The expressions that this one is made of."""

    @abstractmethod
    def evaluate(self, fractions: torch.Tensor, strides: Mapping[Choice, int]) -> torch.Tensor:
        """float32 `[n, N]`, the coefficients of the n images that reach this expression.

        Args:
            fractions: float32 `[n]`, place of each image along the whole batch: 0 for the first, 1 for the last.
            strides: number of consecutive seeds that share a turn, by choice; see `allocation.allocate_balanced`.
        """

    @abstractmethod
    def describe(self) -> str:
        """The expression in words, e.g. "woman" or "1 x woman - 0.5 x glasses"."""

    def vectors(self) -> tuple[Vector, ...]:
        """The distinct vectors of the expression, in order of appearance."""
        return tuple(dict.fromkeys(vector for part in self.parts() for vector in part.vectors()))

    def choices(self) -> tuple[Choice, ...]:
        """The distinct choices of the expression, outer ones first."""
        own = (self,) if isinstance(self, Choice) else ()
        return tuple(dict.fromkeys([*own, *(choice for part in self.parts() for choice in part.choices())]))

    @property
    def same_for_all(self) -> bool:
        """True where every image of a batch gets the same."""
        return all(part.same_for_all for part in self.parts())

    def coefficients(self, batch: int) -> torch.Tensor:
        """float32 `[batch, N]`, each image's coefficient of each of `vectors()`."""
        return self.evaluate(torch.arange(batch) / max(1, batch - 1), self._strides())

    def assignment(self, strength: float = 1.0, images: int = 64) -> Assignment:
        """The shares of each image: one entry an image if a choice is in the expression, else one entry for all.

        Where a sweep is in it, a share has the coefficient of the first image of the batch and that of the last.

        Args:
            strength: factor on every coefficient.
            images: number of entries where images differ.
        """
        count = images if self.choices() else 1
        first = (strength * self.evaluate(torch.zeros(count), self._strides())).tolist()
        last = (strength * self.evaluate(torch.ones(count), self._strides())).tolist()
        names = [vector.name for vector in self.vectors()]
        entries = tuple(
            tuple(Share(*share) for share in zip(names, *row, strict=True)) for row in zip(first, last, strict=True)
        )
        return Assignment(entries, per_image=bool(self.choices()))

    def _strides(self) -> dict[Choice, int]:
        strides, stride = {}, 1
        for choice in self.choices():
            strides[choice] = stride
            stride *= sum(choice.weights)
        return strides

    def _evaluate_part(self, part: Concept, fractions: torch.Tensor, strides: Mapping[Choice, int]) -> torch.Tensor:
        """A part's coefficients in this expression's columns."""
        column = {vector: index for index, vector in enumerate(self.vectors())}
        total = torch.zeros(len(fractions), len(column))
        total[:, [column[vector] for vector in part.vectors()]] = part.evaluate(fractions, strides)
        return total

    def __add__(self, other: Concept) -> Concept:
        return Sum(((1.0, self), (1.0, other)))

    def __mul__(self, factor: float) -> Concept:
        return Sum(((float(factor), self),))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Sum(Concept):
    """`s * a + t * b + ...`; negative coefficients steer away. Raises ValueError where vectors do not mix."""

    terms: tuple[tuple[float, Concept], ...]

    def __post_init__(self):
        _check_mix(self)

    def parts(self) -> tuple[Concept, ...]:
        return tuple(concept for _, concept in self.terms)

    def evaluate(self, fractions, strides) -> torch.Tensor:
        total = torch.zeros(len(fractions), len(self.vectors()))
        for factor, concept in self.terms:
            total += factor * self._evaluate_part(concept, fractions, strides)
        return total

    def describe(self) -> str:
        words = " + ".join(f"{factor:g} x {_bracketed(concept)}" for factor, concept in self.terms)
        return words.replace("+ -", "- ") or "nothing"


@dataclass(frozen=True, eq=False)
class Choice(Concept):
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
        _check_mix(self)

    def parts(self) -> tuple[Concept, ...]:
        return self.options

    @property
    def same_for_all(self) -> bool:
        return False

    def evaluate(self, fractions, strides) -> torch.Tensor:
        allocated = torch.tensor(self.allocate(len(fractions), strides[self]))
        total = torch.zeros(len(fractions), len(self.vectors()))
        for index, option in enumerate(self.options):
            rows = (allocated == index).nonzero().flatten()
            total[rows] = self._evaluate_part(option, fractions[rows], strides)
        return total

    def allocate(self, count: int, stride: int = 1) -> list[int]:
        """The index of the option of each of `count` images; `stride` as in `allocation.allocate_balanced`."""
        salt = f"{self.describe()}|{self.weights}"
        if self.balanced:
            return allocate_balanced(self.weights, count, self.seed, stride=stride, salt=salt)
        return allocate_independent(self.weights, count, self.seed, salt=salt)

    def describe(self) -> str:
        return f"one of ({', '.join(option.describe() for option in self.options)})"


@dataclass(frozen=True, eq=False)
class Sweep(Concept):
    """A coefficient that moves evenly from the first image of a batch to the last; a single image gets `start`."""

    concept: Concept
    start: float
    end: float

    def parts(self) -> tuple[Concept, ...]:
        return (self.concept,)

    @property
    def same_for_all(self) -> bool:
        return self.start == self.end and self.concept.same_for_all

    def evaluate(self, fractions, strides) -> torch.Tensor:
        factors = self.start + (self.end - self.start) * fractions
        return factors[:, None] * self.concept.evaluate(fractions, strides)

    def describe(self) -> str:
        return f"{self.start:g} to {self.end:g} x {_bracketed(self.concept)}"


def _bracketed(concept: Concept) -> str:
    return f"({concept.describe()})" if isinstance(concept, (Sum, Sweep)) else concept.describe()


def _check_mix(concept: Concept) -> None:
    """Raise ValueError where vectors are of different families, widths or map sizes."""
    vectors = concept.vectors()
    for other in vectors[1:]:
        first = vectors[0]
        widths = [
            {
                site: len(tensor)
                for site, tensor in vector.tensors.items()
                if site in (first.tensors.keys() & other.tensors)
            }
            for vector in (first, other)
        ]
        if first.family != other.family or widths[0] != widths[1]:
            raise ValueError(
                f"Concepts of different models do not mix: {_identity(first)}, {_identity(other)}. "
                "Use vectors found on the same base model."
            )
    mapped: dict[int, Vector] = {}
    for vector in vectors:
        for site, tensor in vector.tensors.items():
            if tensor.shape[1:] == (1, 1):
                continue
            first = mapped.setdefault(site, vector)
            if tensor.shape != first.tensors[site].shape:
                raise ValueError(
                    f"Concepts found at different image sizes do not mix: {_identity(first)}, {_identity(vector)}. Use "
                    "one Apply node for each, or find them at the same size."
                )


def _identity(vector: Vector) -> str:
    channels, height, width = vector.tensor.shape
    return f"'{vector.name}' is for {vector.family} ({channels} channels, map {height} x {width})"


NOTHING = Sum(())
"""The empty expression: steers nothing."""
