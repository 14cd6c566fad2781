"""Which vectors can be parts of one expression: those of one family, with one width and one map size at each site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .vector import Vector


@dataclass(frozen=True)
class Examples:
    """For each site, the first vector of an expression that acts there, and the first that has a map there."""

    acting: Mapping[int, Vector] = field(default_factory=dict)
    mapped: Mapping[int, Vector] = field(default_factory=dict)


def merge_examples(parts: Iterable[Examples]) -> Examples:
    """The examples of an expression from those of its parts.

    Raises:
        ValueError: vectors are of different families, widths or map sizes.
    """
    acting: dict[int, Vector] = {}
    mapped: dict[int, Vector] = {}
    for part in parts:
        for site, vector in part.acting.items():
            first = acting.setdefault(site, vector)
            if first.family != vector.family or len(first.tensors[site]) != len(vector.tensors[site]):
                raise ValueError(
                    f"Concepts of different models do not mix: {_identity(first)}, {_identity(vector)}. "
                    "Use vectors found on the same base model."
                )
        for site, vector in part.mapped.items():
            first = mapped.setdefault(site, vector)
            if first.tensors[site].shape != vector.tensors[site].shape:
                raise ValueError(
                    f"Concepts found at different image sizes do not mix: {_identity(first)}, {_identity(vector)}. Use "
                    "one Apply node for each, or find them at the same size."
                )
    return Examples(acting, mapped)


def _identity(vector: Vector) -> str:
    channels, height, width = vector.tensor.shape
    return f"'{vector.name}' is for {vector.family} ({channels} channels, map {height} x {width})"
