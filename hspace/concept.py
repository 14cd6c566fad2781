"""Concepts as an algebra: immutable expressions that say which directions each image of a batch is given, and how much.

A `Direction` is a vector in h-space. Sums, choices and sweeps make expressions of them, nested to any depth; whatever
their shape, they answer two questions, and steering asks no others:

    directions()          the N distinct directions, each `[C, H, W]` or `[C, 1, 1]`
    coefficients(batch)   float32 `[batch, N]`

so that image b is steered by `einsum("bn,nchw->bchw", coefficients, directions)`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch

from .draws import balanced_draws, independent_draws


class Concept(ABC):
    """An immutable concept expression; what travels through a graph as CONCEPT_VECTOR."""

    @abstractmethod
    def parts(self) -> tuple[Concept, ...]:
        """The expressions that this one is made of."""

    @abstractmethod
    def evaluate(self, fractions: torch.Tensor, strides: Mapping[Choice, int]) -> torch.Tensor:
        """float32 `[n, N]` for the n images that reach this expression.

        Args:
            fractions: float32 `[n]`, place of each image along the whole batch: 0 for the first, 1 for the last.
            strides: how many consecutive seeds share a turn, by choice; see `draws.balanced_draws`.
        """

    @abstractmethod
    def describe(self) -> str:
        """The expression in words, e.g. "woman" or "1 x woman - 0.5 x glasses"."""

    def directions(self) -> tuple[Direction, ...]:
        """The distinct directions of the expression, in order of appearance."""
        return tuple(dict.fromkeys(direction for part in self.parts() for direction in part.directions()))

    def choices(self) -> tuple[Choice, ...]:
        """The distinct choices of the expression, outer ones first."""
        own = (self,) if isinstance(self, Choice) else ()
        return tuple(dict.fromkeys([*own, *(choice for part in self.parts() for choice in part.choices())]))

    @property
    def same_for_all(self) -> bool:
        """Whether every image of a batch gets the same."""
        return all(part.same_for_all for part in self.parts())

    def coefficients(self, batch: int) -> torch.Tensor:
        """float32 `[batch, N]`: how much of each of `directions()` each image gets."""
        return self.evaluate(torch.arange(batch) / max(1, batch - 1), self._strides())

    def assignment(self, strength: float = 1.0, images: int = 64) -> str:
        """What each image gets, one line an image ("0: woman x 1"), or one line for "every image".

        Where a sweep is in it, a coefficient reads "0 to 2": from the first image of the batch to the last.
        """
        count = images if self.choices() else 1
        first = (strength * self.evaluate(torch.zeros(count), self._strides())).tolist()
        last = (strength * self.evaluate(torch.ones(count), self._strides())).tolist()
        names = [" ".join(direction.name.split()) for direction in self.directions()]
        lines = []
        for index, (start, end) in enumerate(zip(first, last, strict=True)):
            given = [f"{name} x {a:g}" if a == b else f"{name} x {a:g} to {b:g}"
                     for name, a, b in zip(names, start, end, strict=True) if a or b]  # fmt: skip
            lines.append(f"{index if self.choices() else 'every image'}: {', '.join(given) or 'nothing'}")
        return "\n".join(lines)

    def _strides(self) -> dict[Choice, int]:
        strides, stride = {}, 1
        for choice in self.choices():
            strides[choice] = stride
            stride *= sum(choice.weights)
        return strides

    def _evaluate_part(self, part: Concept, fractions: torch.Tensor, strides: Mapping[Choice, int]) -> torch.Tensor:
        """A part's coefficients in this expression's columns."""
        column = {direction: index for index, direction in enumerate(self.directions())}
        total = torch.zeros(len(fractions), len(column))
        total[:, [column[direction] for direction in part.directions()]] = part.evaluate(fractions, strides)
        return total

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

    @cached_property
    def _content(self) -> str:
        values = self.tensor.numpy().tobytes()
        return hashlib.sha256(f"{self.family}|{self.name}|{list(self.tensor.shape)}|".encode() + values).hexdigest()

    def __eq__(self, other):
        # Two loads of one file are one direction, so that sums store it once.
        return isinstance(other, Direction) and self._content == other._content

    def __hash__(self):
        return hash(self._content)

    def parts(self) -> tuple[Concept, ...]:
        return ()

    def directions(self) -> tuple[Direction, ...]:
        return (self,)

    def evaluate(self, fractions, strides) -> torch.Tensor:
        return torch.ones(len(fractions), 1)

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Sum(Concept):
    """`s * a + t * b + ...`; negative coefficients steer away. Raises ValueError where vectors do not mix."""

    terms: tuple[tuple[float, Concept], ...]

    def __post_init__(self):
        _check_mix(self)

    def parts(self) -> tuple[Concept, ...]:
        return tuple(concept for _, concept in self.terms)

    def evaluate(self, fractions, strides) -> torch.Tensor:
        total = torch.zeros(len(fractions), len(self.directions()))
        for factor, concept in self.terms:
            total += factor * self._evaluate_part(concept, fractions, strides)
        return total

    def describe(self) -> str:
        words = " + ".join(f"{factor:g} x {_bracketed(concept)}" for factor, concept in self.terms)
        return words.replace("+ -", "- ") or "nothing"


@dataclass(frozen=True, eq=False)
class Choice(Concept):
    """Each image of the batch draws one of the options; a sum of choices draws for each independently.

    Args:
        options: two or more expressions.
        weights: a positive integer for each; an option's share is its weight over their sum.
        seed: of the draws. Consecutive seeds with batch 1 are balanced as the images of one batch are.
        balanced: counts stay within one of their expectation (`draws.balanced_draws`); otherwise every image draws
            on its own.

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
        drawn = torch.tensor(self.draw(len(fractions), strides[self]))
        total = torch.zeros(len(fractions), len(self.directions()))
        for index, option in enumerate(self.options):
            rows = (drawn == index).nonzero().flatten()
            total[rows] = self._evaluate_part(option, fractions[rows], strides)
        return total

    def draw(self, count: int, stride: int = 1) -> list[int]:
        """The option of each of `count` images."""
        salt = f"{self.describe()}|{self.weights}"
        if self.balanced:
            return balanced_draws(self.weights, count, self.seed, stride=stride, salt=salt)
        return independent_draws(self.weights, count, self.seed, salt=salt)

    def describe(self) -> str:
        return f"one of ({', '.join(option.describe() for option in self.options)})"


@dataclass(frozen=True, eq=False)
class Sweep(Concept):
    """A coefficient that moves evenly along the batch, from the first image to the last; a single image gets `start`."""

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
    """Raise ValueError where directions are of different families, widths or map sizes."""
    directions = concept.directions()
    for other in directions[1:]:
        first = directions[0]
        if (first.family, first.tensor.shape[0]) != (other.family, other.tensor.shape[0]):
            raise ValueError(
                f"Concepts of different models do not mix: {_identity(first)}, {_identity(other)}. "
                "Use vectors found on the same base model."
            )
    maps = [direction for direction in directions if direction.tensor.shape[1:] != (1, 1)]
    for other in maps[1:]:
        if other.tensor.shape != maps[0].tensor.shape:
            raise ValueError(
                f"Concepts found at different image sizes do not mix: {_identity(maps[0])}, {_identity(other)}. Use one "
                "Apply node for each, or find them at the same size."
            )


def _identity(direction: Direction) -> str:
    channels, height, width = direction.tensor.shape
    return f"'{direction.name}' is for {direction.family} ({channels} channels, map {height} x {width})"


NOTHING = Sum(())
"""The empty expression: steers nothing."""
