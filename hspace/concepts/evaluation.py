"""What an expression comes to, worked out part by part without recursion.

Expressions come from workflows, which nest them as deep as they like and use one part in many places. So every part is
looked at once for each group of images that it gives something to, however many paths lead to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .concept import Choice, Concept

Images = tuple[int, ...]
MOST_EVALUATIONS = 10_000
"""Parts times groups of images. Choices inside of choices, many times over, make more groups than anyone can wait for.
"""


def walk(concept: Concept) -> list[Concept]:
    """The distinct parts of an expression, itself last, each after those that it is made of."""
    order, seen, waiting = [], set(), [(concept, False)]
    while waiting:
        part, parts_done = waiting.pop()
        if parts_done:
            order.append(part)
        elif id(part) not in seen:
            seen.add(id(part))
            waiting.append((part, True))
            waiting += [(inner, False) for inner in reversed(part.parts())]
    return order


def evaluate(
    concept: Concept, fractions: torch.Tensor, strides: Mapping[Choice, int], site: int | None
) -> torch.Tensor:
    """float32 `[B, N]`: each image's coefficient of each vector of the expression.

    Args:
        fractions: float32 `[B]`, place of each image along the batch: 0 for the first, 1 for the last.
        strides: number of consecutive seeds that share a turn, by choice; see `allocation.allocate_balanced`.
        site: as `Concept.coefficients` takes it.

    Raises:
        ValueError: choices are nested so deep that there are too many groups of images.
    """
    everyone = tuple(range(len(fractions)))
    needed: dict[tuple[int, Images], list[tuple[Concept, Images]]] = {}
    found: dict[tuple[int, Images], torch.Tensor] = {}
    waiting = [(concept, everyone)]
    while waiting:
        part, images = waiting[-1]
        key = (id(part), images)
        if key not in needed:
            if len(needed) == MOST_EVALUATIONS:
                raise ValueError(
                    "concept: choices are nested so deep in it that who gets what cannot be worked out. Connect fewer "
                    "Choose Concept nodes in a row."
                )
            needed[key] = list(zip(part.parts(), part.split(images, strides), strict=True))
        missing = [call for call in needed[key] if (id(call[0]), call[1]) not in found]
        if missing and key not in found:
            waiting += missing
            continue
        waiting.pop()
        if key not in found:
            values = [(reached, found[id(inner), reached]) for inner, reached in needed[key]]
            found[key] = part.combine(images, fractions[torch.tensor(images, dtype=torch.long)], values, site)
    return found[id(concept), everyone]
