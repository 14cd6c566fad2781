"""Concepts as an algebra: immutable expressions that give each image of a batch some of each vector.

A `Vector` is the simplest concept. Sums, choices and sweeps make expressions of them, nested to any depth. Whatever its
shape, an expression answers two questions, and steering asks no others:

    vectors()             the N distinct vectors, each `[C, H, W]` or `[C, 1, 1]`
    coefficients(batch)   float32 `[batch, N]`

so that image b is steered by `einsum("bn,nchw->bchw", coefficients, vectors)`, at every site, unless a sum is
normalised, whose coefficients differ by site (`by_site.coefficients_by_site`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .assignment import Assignment, Share
from .evaluation import Images, evaluate, walk
from .finite import check_finite
from .mixing import Examples, merge_examples
from .quoting import bounded

if TYPE_CHECKING:
    from .choice import Choice
    from .vector import Vector


class Concept(ABC):
    """An immutable concept expression; what travels through a graph as CONCEPT_VECTOR."""

    @abstractmethod
    def parts(self) -> tuple[Concept, ...]:
        """The expressions that this one is made of."""

    @abstractmethod
    def vectors(self) -> tuple[Vector, ...]:
        """The distinct vectors of the expression, in order of appearance."""

    @abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """The distinct choices of the expression, outer ones first."""

    @abstractmethod
    def describe(self) -> str:
        """The expression in words, e.g. "woman" or "1 x woman - 0.5 x glasses"."""

    def in_brackets(self) -> str:
        """`describe`, for use after a factor."""
        return self.describe()

    @property
    @abstractmethod
    def examples(self) -> Examples:
        """The vectors that others are compared with before they mix."""

    @property
    @abstractmethod
    def same_for_all(self) -> bool:
        """True where every image of a batch gets the same."""

    @property
    @abstractmethod
    def moves_along_batch(self) -> bool:
        """True where a sweep is in it, whose strength goes from the first image of a batch to the last."""

    @property
    @abstractmethod
    def deals(self) -> bool:
        """True where images get what their place in the batch and a seed give them: a choice, or varied strengths."""

    def split(self, images: Images, strides: Mapping[Choice, int]) -> list[Images]:
        """For each part, which of the images that reach this expression reach the part: all, unless it chooses.

        Args:
            images: places in the batch.
            strides: number of consecutive seeds that share a turn, by choice; see `allocation.allocate_balanced`.
        """
        return [images] * len(self.parts())

    @abstractmethod
    def combine(
        self, images: Images, fractions: torch.Tensor, values: Sequence[tuple[Images, torch.Tensor]], site: int | None
    ) -> torch.Tensor:
        """float32 `[n, N]`, the coefficients of the n images that reach this expression, at a site or at None.

        Args:
            images: places in the batch.
            fractions: float32 `[n]`, place of each along the whole batch: 0 for the first, 1 for the last.
            values: for each part the images that reach it, as `split` gave them, and their coefficients of its vectors.
        """

    def coefficients(self, batch: int, places: Sequence[int] | None = None, site: int | None = None) -> torch.Tensor:
        """float32 `[batch, N]`, each image's coefficient of each of `vectors()`.

        Args:
            batch: number of images.
            places: where they stand in a larger batch of which they are a part, for choices; sweeps go along the part.
            site: None takes a sum's length over all sites where it is normalised.

        Raises:
            ValueError: weights multiply to more than a number can hold.
        """
        fractions = torch.arange(batch) / max(1, batch - 1)
        if places is None:
            return self._evaluate(fractions, site=site)
        whole = torch.zeros(max(places) + 1)
        whole[list(places)] = fractions
        return self._evaluate(whole, site=site)[list(places)]

    def assignment(self, strength: float = 1.0, images: int = 64) -> Assignment:
        """The shares of each image: one entry an image if the expression deals something to each, else one for all.

        Where a sweep is in it, a share has the coefficient of the first image of the batch and that of the last.

        Args:
            strength: factor on every coefficient.
            images: number of entries where images differ.

        Raises:
            ValueError: as `coefficients` does.
        """
        count = images if self.deals else 1
        first = self._evaluate(torch.zeros(count), strength).tolist()
        last = self._evaluate(torch.ones(count), strength).tolist()
        names = [vector.name for vector in self.vectors()]
        entries = tuple(
            tuple(Share(*share) for share in zip(names, *row, strict=True)) for row in zip(first, last, strict=True)
        )
        return Assignment(entries, per_image=self.deals)

    def _evaluate(self, fractions: torch.Tensor, strength: float = 1.0, site: int | None = None) -> torch.Tensor:
        strides, stride = {}, 1
        for choice in self.choices():
            strides[choice] = stride
            stride *= sum(choice.weights)
        values = strength * evaluate(self, fractions, strides, site)
        if not values.isfinite().all():
            raise ValueError(
                "concept: its weights and the strength multiply to more than a number can hold. Lower them; images "
                "break up far below that."
            )
        return values

    def __add__(self, other: Concept) -> Concept:
        return Sum(((1.0, self), (1.0, other)))

    def __mul__(self, factor: float) -> Concept:
        return Sum(((float(factor), self),))

    __rmul__ = __mul__

    def __repr__(self):
        # ComfyUI writes the inputs of a node that fails into its log.
        words = self.describe()
        return f"<{type(self).__name__} {words if len(words) <= 200 else words[:199] + '…'}>"

    def __deepcopy__(self, memo):
        # Packs deep-copy what travels through graphs; nothing of a concept ever changes, so it need not be copied.
        return self


class Expression(Concept):
    """A concept that is made of others. What follows from its parts is worked out when it is made, from what they know
    of themselves, so that neither depth nor a part that is used many times costs anything later.

    Raises:
        ValueError: vectors that do not mix.
    """

    _vectors: tuple[Vector, ...]
    _examples: Examples
    _description: str
    _choices: tuple[Choice, ...]
    _same_for_all: bool
    _moves: bool
    _deals: bool

    def __post_init__(self):
        parts = self.parts()
        object.__setattr__(self, "_examples", merge_examples(part.examples for part in parts))
        object.__setattr__(self, "_vectors", tuple(dict.fromkeys(v for part in parts for v in part.vectors())))
        object.__setattr__(self, "_choices", tuple(dict.fromkeys(c for part in parts for c in part.choices())))
        object.__setattr__(self, "_description", bounded(self._in_words()))
        object.__setattr__(self, "_same_for_all", all(part.same_for_all for part in parts))
        object.__setattr__(self, "_moves", any(part.moves_along_batch for part in parts))
        object.__setattr__(self, "_deals", any(part.deals for part in parts))

    @abstractmethod
    def settings(self) -> tuple:
        """All that the expression is made with besides its parts."""

    @classmethod
    @abstractmethod
    def of(cls, parts: tuple[Concept, ...], settings: tuple) -> Expression:
        """The expression with these parts and settings."""

    @abstractmethod
    def _in_words(self) -> str:
        """See `describe`, from the descriptions of the parts."""

    def vectors(self) -> tuple[Vector, ...]:
        return self._vectors

    def choices(self) -> tuple[Choice, ...]:
        return self._choices

    def describe(self) -> str:
        return self._description

    @property
    def examples(self) -> Examples:
        return self._examples

    @property
    def same_for_all(self) -> bool:
        return self._same_for_all

    @property
    def moves_along_batch(self) -> bool:
        return self._moves

    @property
    def deals(self) -> bool:
        return self._deals

    def _columns(self, part: Concept) -> list[int]:
        """Where the vectors of a part are among those of the expression."""
        column = {vector: index for index, vector in enumerate(self._vectors)}
        return [column[vector] for vector in part.vectors()]

    def __reduce__(self):
        # As a list instead of nested: pickle recurses, and a chain of nodes can be longer than it may.
        order = walk(self)
        places = {id(part): place for place, part in enumerate(order)}
        entries: list[Any] = [
            (type(part), [places[id(inner)] for inner in part.parts()], part.settings())
            if isinstance(part, Expression)
            else part
            for part in order
        ]
        return _restore, (entries,)


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Expression):
    """`s * a + t * b + ...`; negative coefficients steer away.

    Raises:
        ValueError: vectors that do not mix, or a coefficient that is not finite.
    """

    terms: tuple[tuple[float, Concept], ...]

    def __post_init__(self):
        check_finite("weights", self.settings())
        super().__post_init__()

    def parts(self) -> tuple[Concept, ...]:
        return tuple(concept for _, concept in self.terms)

    def settings(self) -> tuple:
        return tuple(factor for factor, _ in self.terms)

    @classmethod
    def of(cls, parts, settings) -> Sum:
        return cls(tuple(zip(settings, parts, strict=True)))

    def combine(self, images, fractions, values, site) -> torch.Tensor:
        total = torch.zeros(len(images), len(self._vectors))
        for (factor, concept), (_, coefficients) in zip(self.terms, values, strict=True):
            total[:, self._columns(concept)] += factor * coefficients
        return total

    def in_brackets(self) -> str:
        return f"({self.describe()})"

    def _in_words(self) -> str:
        words = " + ".join(f"{factor:g} x {concept.in_brackets()}" for factor, concept in self.terms)
        return words.replace("+ -", "- ") or "nothing"


def _restore(entries: list) -> Concept:
    """The inverse of `Expression.__reduce__`."""
    made: list[Concept] = []
    for entry in entries:
        if isinstance(entry, tuple):
            kind, places, settings = entry
            entry = kind.of(tuple(made[place] for place in places), settings)
        made.append(entry)
    return made[-1]


NOTHING = Sum(())
"""The empty expression: steers nothing."""
