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
    """A sum, scaled for each image, and at each site by itself, so that it is no longer than the longest of its terms.

    The length of a vector is the root of its mean square over the map, summed over channels. Terms that push against
    each other, whose sum is shorter, are left as they are. A response is scaled with its vector and has no part in its
    length, which would depend on the image.

    At each site by itself, for the units of h are those of the site: summed over sites, those where h is large would
    decide for all. Coefficients that are asked for at no site, such as those of an assignment, are by that sum.
    """

    def combine(self, images, fractions, values, site) -> torch.Tensor:
        total = super().combine(images, fractions, values, site)
        longest = torch.zeros(len(images))
        for (factor, concept), (_, coefficients) in zip(self.terms, values, strict=True):
            term = torch.zeros_like(total)
            term[:, self._columns(concept)] = factor * coefficients
            longest = torch.maximum(longest, self._lengths(term, site))
        length = self._lengths(total, site)
        return torch.where(length > longest, longest / length.clamp_min(1e-30), 1.0)[:, None] * total

    def _lengths(self, coefficients: torch.Tensor, site: int | None) -> torch.Tensor:
        """float32 `[n]`: lengths at a site, or over all, of sums of the vectors, from `[n, N]`."""
        products = [product for at, product in self._products.items() if site in (None, at)]
        if not products:
            return torch.zeros(len(coefficients))
        wide = coefficients.double()
        return torch.einsum("bi,ij,bj->b", wide, torch.stack(products).sum(0), wide).clamp_min(0).sqrt().float()

    @cached_property
    def _products(self) -> dict[int, torch.Tensor]:
        """By site, float64 `[N, N]`: the vectors' products, taken from the parts where they know them."""
        count = len(self._vectors)
        sites = sorted(self.examples.acting)
        products = torch.full((len(sites), count, count), torch.nan, dtype=torch.float64)
        for part in self.parts():
            if isinstance(part, NormalisedSum):
                columns = torch.tensor(self._columns(part), dtype=torch.long)
                known = [part._products.get(site, torch.zeros(len(columns), len(columns))) for site in sites]
                products[:, columns[:, None], columns] = torch.stack(known).double()
        for i, j in products[0].isnan().triu().nonzero().tolist() if sites else ():
            for index, site in enumerate(sites):
                products[index, i, j] = products[index, j, i] = _product(self._vectors[i], self._vectors[j], site)
        return dict(zip(sites, products, strict=True))

    def in_brackets(self) -> str:
        return self.describe()

    def _in_words(self) -> str:
        return f"normalised ({super()._in_words()})"


def _product(first: Vector, second: Vector, site: int) -> float:
    """Mean over the map of what two vectors have in common at a site, summed over channels."""
    ours, theirs = first.tensors.get(site), second.tensors.get(site)
    return 0.0 if ours is None or theirs is None else (ours * theirs).mean((1, 2), dtype=torch.float64).sum().item()
