"""What each image gets of each vector at each site."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .concept import Concept
from .evaluation import walk
from .normalised import NormalisedSum


def coefficients_by_site(concept: Concept, batch: int, places: Sequence[int] | None = None) -> dict[int, torch.Tensor]:
    """`Concept.coefficients`, float32 `[batch, N]`, at each site that one of the vectors acts on.

    They are one tensor for all sites, worked out once, unless a sum in the expression is normalised.

    Raises:
        ValueError: as `Concept.coefficients` does.
    """
    sites = sorted(concept.examples.acting)
    if any(isinstance(part, NormalisedSum) for part in walk(concept)):
        return {site: concept.coefficients(batch, places, site) for site in sites}
    return dict.fromkeys(sites, concept.coefficients(batch, places))
