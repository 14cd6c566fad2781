"""Measures of a concept vector `[C, H, W]`: size, place of energy, upper bound on its noise, distance to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F

from ..concepts import Concept, Vector, coefficients_by_site, resize_vector

LOW_FREQUENCY = 0.25
"""Cycles per h-space pixel: waves of four pixels or longer count as low, the mean among them."""
BATCH = 8
"""Images among which the most strongly steered one of an expression is sought."""
_PROMPTS = ("concept_prompt", "base_prompt", "avoid_prompt", "keep_prompt")
SHOWN = (*_PROMPTS, "method", "steps", "seed", "final_loss", "model_patches")
TOP_CHANNELS = 5
LONGEST_TEXT = 200
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Inspection:
    """Measures of one vector; energy is the sum of squares, and a share of it is 0 for a vector of zeros.

    Args:
        name: what people call it.
        tensor: of h-space, float32 `[C, H, W]` or `[C, 1, 1]`; all measures but `energy_by_site` are of it.
        decoder: tensors of the decoder's further sites.
    """

    name: str
    tensor: torch.Tensor
    decoder: Mapping[int, torch.Tensor] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Euclidean norm, in units of h."""
        return self.tensor.norm().item()

    @property
    def rms(self) -> float:
        """Root mean square of an element, in units of h; carries across map sizes, which the norm does not."""
        return self.tensor.square().mean().sqrt().item()

    @property
    def energy_by_site(self) -> dict[int, float]:
        """Share of the energy at each site, h-space being site 0, each relative to its number of pixels."""
        energies = {
            site: tensor.square().mean((1, 2)).sum() for site, tensor in {0: self.tensor, **self.decoder}.items()
        }
        total = torch.stack(list(energies.values())).sum().clamp_min(TINY)
        return {site: (energy / total).item() for site, energy in energies.items()}

    @property
    def has_map(self) -> bool:
        """True where it has more than one pixel; one pixel has no spatial frequencies."""
        return self.tensor.shape[1:] != (1, 1)

    @property
    def mean_share(self) -> float:
        """Share of the energy in the spatial mean: 1 for a constant map, 1 / (H * W) expected of white noise."""
        height, width = self.tensor.shape[1:]
        return (height * width * self.tensor.mean((1, 2)).square().sum() / self._energy).item()

    @property
    def low_share(self) -> float:
        """Share of the energy in waves of four pixels or longer, the mean included; see `low_share_of_noise`."""
        return (self._power[self._frequencies <= LOW_FREQUENCY].sum() / self._power.sum().clamp_min(TINY)).item()

    @property
    def low_share_of_noise(self) -> float:
        """`low_share` that is expected of white noise on a map of this size."""
        return (self._frequencies <= LOW_FREQUENCY).float().mean().item()

    @cached_property
    def spectrum(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Radially averaged power spectrum: frequencies in cycles per pixel, and power relative to white noise of the
        same energy, which is 1 everywhere. Both float32 `[bins]`; the first bin is the spatial mean.
        """
        rings = (self._frequencies * max(self.tensor.shape[1:])).round().long().flatten()
        counts = torch.bincount(rings)
        filled = counts > 0
        power = torch.bincount(rings, self._power.flatten())[filled] / counts[filled]
        frequencies = torch.bincount(rings, self._frequencies.flatten())[filled] / counts[filled]
        return frequencies, power / self._power.mean().clamp_min(TINY)

    @property
    def noise_ceiling(self) -> float:
        """Upper bound on the share of the energy that can be white noise: noise is flat, so it is nowhere above the
        lowest point of the spectrum.
        """
        return min(1.0, self.spectrum[1].min().item())

    @cached_property
    def channel_norms(self) -> torch.Tensor:
        """float32 `[C]`: Euclidean norm of each channel's map."""
        return self.tensor.flatten(1).norm(dim=1)

    @cached_property
    def energy_map(self) -> torch.Tensor:
        """float32 `[H, W]`: energy of each pixel, summed over channels."""
        return self.tensor.square().sum(0)

    def lines(self) -> list[str]:
        """The measures in words, one a line."""
        channels, height, width = self.tensor.shape
        lines = []
        if self.decoder:
            shares = ", ".join(f"{site}: {share:.1%}" for site, share in self.energy_by_site.items())
            lines.append(f"energy by site (0: h-space, then the further decoder blocks): {shares}")
        if not self.norm:
            steers = any(tensor.any() for tensor in self.decoder.values())
            return [*lines, "h-space: all values are zero." if steers else "All values are zero: it steers nothing."]
        lines += [f"norm: {self.norm:.4g}", f"RMS per element: {self.rms:.4g}"]
        if self.has_map:
            lines += [
                f"energy in the spatial mean: {self.mean_share:.1%} (white noise: {1 / (height * width):.1%})",
                f"energy in waves of 4 pixels or longer: {self.low_share:.1%} (white noise: "
                f"{self.low_share_of_noise:.1%})",
                f"energy that can be white noise: at most {self.noise_ceiling:.0%}",
            ]
        else:
            lines.append("no spatial map: the same value at every pixel, so no spectrum")
        norms, indices = self.channel_norms.topk(min(TOP_CHANNELS, channels))
        shares = norms.square() / self._energy
        largest = ", ".join(f"{i} ({share:.1%})" for i, share in zip(indices.tolist(), shares.tolist(), strict=True))
        lines.append(f"largest channels, share of energy: {largest} (even: {1 / channels:.1%})")
        return lines

    @property
    def _energy(self) -> torch.Tensor:
        return self.tensor.square().sum().clamp_min(TINY)

    @cached_property
    def _power(self) -> torch.Tensor:
        return torch.fft.fft2(self.tensor).abs().square().sum(0)

    @cached_property
    def _frequencies(self) -> torch.Tensor:
        """`[H, W]` in cycles per pixel, laid out as `_power` is."""
        height, width = self.tensor.shape[1:]
        return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])


@dataclass(frozen=True)
class Comparison:
    """Two vectors on one map size.

    Args:
        first, second: float32, both `[C, H, W]`. A cosine with a vector of zeros is 0.
    """

    first: Inspection
    second: Inspection

    @property
    def cosine(self) -> float:
        """Of all values, in [-1, 1]."""
        return F.cosine_similarity(self.first.tensor.flatten(), self.second.tensor.flatten(), dim=0).item()

    def cosine_at(self, site: int) -> float:
        """Cosine of the spatial means at a further site that both act on, in [-1, 1]."""
        first, second = (vector.decoder[site].mean((1, 2)) for vector in (self.first, self.second))
        return F.cosine_similarity(first, second, dim=0).item()

    @property
    def mean_cosine(self) -> float:
        """Of the spatial means, in [-1, 1]."""
        return F.cosine_similarity(self.first.tensor.mean((1, 2)), self.second.tensor.mean((1, 2)), dim=0).item()

    @property
    def relative_norm(self) -> float:
        """Norm of the first over norm of the second."""
        return self.first.norm / max(self.second.norm, TINY)

    @property
    def cosine_map(self) -> torch.Tensor:
        """float32 `[H, W]`: cosine over channels at each pixel."""
        return F.cosine_similarity(self.first.tensor, self.second.tensor, dim=0)

    def lines(self) -> list[str]:
        """The comparison in words, one a line."""
        shared = sorted(self.first.decoder.keys() & self.second.decoder.keys())
        cosines = [(site, self.cosine_at(site)) for site in shared]
        return [
            f"cosine: {self.cosine:.3f} (of the spatial means: {self.mean_cosine:.3f})",
            *(
                ["  at further sites: " + ", ".join(f"{site}: {cosine:.3f}" for site, cosine in cosines)]
                if cosines
                else []
            ),
            "  1: same direction, 0: unrelated, -1: opposite; unrelated published vectors have 0.2",
            f"norm of '{_short(self.first.name)}' / norm of '{_short(self.second.name)}': {self.relative_norm:.3g}",
        ]


def inspect_concept(concept: Concept) -> Inspection:
    """Measures of a vector, or of what an expression comes to.

    Of an expression, the image of a batch of eight that is steered most (largest sum of absolute coefficients, the
    first among equals) is taken: a sweep from 0 is inspected at its far end, a choice at its first image.

    Raises:
        ValueError: an expression of no vectors.
    """
    vectors = concept.vectors()
    if not vectors:
        raise ValueError("concept: there is no vector in it to inspect. Connect Load, Discover or what combines them.")
    if isinstance(concept, Vector):
        return Inspection(concept.name, concept.tensor, concept.decoder)
    image = _strongest(concept.coefficients(BATCH))
    by_site = coefficients_by_site(concept, BATCH)
    sums = {site: _weighted_sum(vectors, rows[image].tolist(), site) for site, rows in by_site.items()}
    return Inspection(concept.describe(), sums.pop(0), sums)


def _weighted_sum(vectors: tuple[Vector, ...], coefficients: list[float], site: int) -> torch.Tensor:
    """The sum of the vectors at one site, on the largest of their maps."""
    tensors = [(factor, v.tensors[site]) for factor, v in zip(coefficients, vectors, strict=True) if site in v.tensors]
    height, width = max((tensor.shape[1:] for _, tensor in tensors), key=lambda shape: shape.numel())
    stack = torch.stack([resize_vector(tensor, (height, width)) for _, tensor in tensors])
    return torch.einsum("n,nchw->chw", torch.tensor([factor for factor, _ in tensors]), stack)


def compare_concepts(concept: Concept, other: Concept) -> Comparison:
    """Two concepts on the map size of the first, or of the second where the first has no map.

    Raises:
        ValueError: concepts of different base-model families or widths, or of no vectors.
    """
    first, second = inspect_concept(concept), inspect_concept(other)
    if _model(concept) != _model(other):
        raise ValueError(
            f"compare: '{second.name}' is for {_model(other)}, but '{first.name}' is for {_model(concept)}. Compare "
            "vectors of one base model."
        )
    height, width = (first if first.has_map else second).tensor.shape[1:]
    return Comparison(
        *(Inspection(item.name, resize_vector(item.tensor, (height, width)), item.decoder) for item in (first, second))
    )


def inspection_report(concept: Concept, other: Concept | None = None) -> str:
    """All measures as text: the concept, the vectors it is made of, what is known of them, and the comparison.

    Raises:
        ValueError: as `inspect_concept` and `compare_concepts` do.
    """
    inspection = inspect_concept(concept)
    lines = [_short(inspection.name)]
    if isinstance(concept, Vector):
        lines += [*_identity(concept), *inspection.lines(), *_origin(concept)]
    else:
        lines += [f"{_model(concept)}; inspected as the most strongly steered image gets it", *inspection.lines()]
        coefficients = concept.coefficients(BATCH)
        for vector, coefficient in zip(concept.vectors(), coefficients[_strongest(coefficients)].tolist(), strict=True):
            lines += ["", f"{_short(vector.name)} x {coefficient:g}", *_identity(vector)]
            lines += [f"norm: {vector.tensor.norm():.4g}", *_origin(vector)]
    if other is not None:
        comparison = compare_concepts(concept, other)
        lines += ["", f"compared with {_short(comparison.second.name)}", *comparison.lines()]
    return "\n".join(lines)


def _strongest(coefficients: torch.Tensor) -> int:
    """The image that `inspect_concept` takes, by its coefficients `[BATCH, N]`."""
    return int(coefficients.abs().sum(1).argmax())


def _model(concept: Concept) -> str:
    vector = concept.vectors()[0]  # an expression is of one family and width
    return f"{vector.family} ({vector.tensor.shape[0]} channels)"


def _identity(vector: Vector) -> list[str]:
    base_model = vector.provenance.base_model or vector.family
    ranks = ", ".join(f"rank {response.rank} at site {site}" for site, response in vector.responses.items())
    answers = [f"depends on the image: {ranks}"] if ranks else []
    return [f"base model: {_short(base_model)}", f"shape: {' x '.join(map(str, vector.tensor.shape))}", *answers]


def _origin(vector: Vector) -> list[str]:
    provenance = vector.provenance
    texts = provenance.to_strings()
    lines = [f"{key}: {_short(texts[key])}" for key in SHOWN if texts.get(key)]
    lines += [f"measured: {text}"] if (text := provenance.range_text()) else []
    if provenance.reach is None or provenance.scale is None:
        return lines
    reach = provenance.reach * provenance.scale
    return [*lines, f"reach at strength 1: {reach:.2f} of what the concept prompt itself changes"]


def _short(text: str) -> str:
    """The text in one line of at most 200 characters; names and metadata come from files of strangers."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= LONGEST_TEXT else flat[: LONGEST_TEXT - 1] + "…"
