"""A sum that goes no further than its strongest term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from .concept import Sum

if TYPE_CHECKING:
    from .vector import Vector


@dataclass(frozen=True, eq=False, repr=False)
class NormalisedSum(Sum):
    """A sum, scaled for each image so that it is no longer than the longest of its terms.

    The length of a vector is the root of its mean square over the map, summed over channels and sites. Terms that push
    against each other, whose sum is shorter, are left as they are. A response is scaled with its vector and has no part
    in its length, which would depend on the image.
    """

    def combine(self, images, fractions, values) -> torch.Tensor:
        total = super().combine(images, fractions, values)
        longest = torch.zeros(len(images))
        for (factor, concept), (_, coefficients) in zip(self.terms, values, strict=True):
            term = torch.zeros_like(total)
            term[:, self._columns(concept)] = factor * coefficients
            longest = torch.maximum(longest, self._lengths(term))
        return total * (longest / self._lengths(total).clamp_min(1e-30)).clamp(max=1)[:, None]

    def _lengths(self, coefficients: torch.Tensor) -> torch.Tensor:
        """float32 `[n]`: lengths of sums of the vectors, from `[n, N]`."""
        wide = coefficients.double()
        return torch.einsum("bi,ij,bj->b", wide, self._products, wide).clamp_min(0).sqrt().float()

    @cached_property
    def _products(self) -> torch.Tensor:
        """float64 `[N, N]`: the vectors' products with one another, taken from the parts where they know them."""
        count = len(self._vectors)
        products = torch.full((count, count), torch.nan, dtype=torch.float64)
        for part in self.parts():
            if isinstance(part, NormalisedSum):
                columns = torch.tensor(self._columns(part), dtype=torch.long)
                products[columns[:, None], columns] = part._products
        for i, j in products.isnan().triu().nonzero().tolist():
            products[i, j] = products[j, i] = _product(self._vectors[i], self._vectors[j])
        return products

    def in_brackets(self) -> str:
        return self.describe()

    def _in_words(self) -> str:
        return f"normalised ({super()._in_words()})"


def _product(first: Vector, second: Vector) -> float:
    """Mean over the map of what two vectors have in common, summed over channels and the sites that both act on."""
    ours, theirs = first.tensors, second.tensors
    return sum(
        (ours[site] * theirs[site]).mean((1, 2), dtype=torch.float64).sum().item() for site in ours.keys() & theirs
    )
