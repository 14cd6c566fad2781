"""The tensors of a concept: what discovery finds, files hold and steering adds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from .concept import Concept
from .mixing import Examples
from .provenance import Provenance
from .response import Response

if TYPE_CHECKING:
    from .choice import Choice


@dataclass(frozen=True, eq=False, repr=False)
class Vector(Concept):
    """One vector: a tensor for each site of the U-Net's decoder that it acts on.

    Site 0 is h-space, the entrance of the decoder; sites 1, 2 ... are the entrances of its further blocks, before the
    skip connection joins.

    Args:
        tensor: of site 0, float32 on the CPU, `[C, H, W]`, or `[C, 1, 1]` for a vector without a spatial map.
        name: what people call the concept.
        family: base-model family as `Bottleneck.family` names it.
        provenance: how it was found.
        decoder: tensors of further sites by number, `[C, H, W]` or `[C, 1, 1]`, C being the width of the site.
        responses: by site, what is added there beside the tensor, depending on h.

    Raises:
        ValueError: another number of dimensions, values that are not finite, a site below 1 among the further ones, or
            a response of another width than its site.
    """

    tensor: torch.Tensor
    name: str
    family: str
    provenance: Provenance = field(default_factory=Provenance)
    decoder: Mapping[int, torch.Tensor] = field(default_factory=dict)
    responses: Mapping[int, Response] = field(default_factory=dict)

    def __post_init__(self):
        if any(site < 1 for site in self.decoder):
            raise ValueError(f"Concept '{self.name}': decoder sites are numbered from 1, found {sorted(self.decoder)}.")
        tensors = {}
        for site, tensor in sorted({0: self.tensor, **self.decoder}.items()):
            if tensor.ndim != 3:
                raise ValueError(f"Concept '{self.name}': a vector is [C, H, W], found {list(tensor.shape)}.")
            tensors[site] = self._own(tensor)
        responses = {site: self._fitting(site, tensors.get(site), r) for site, r in sorted(self.responses.items())}
        object.__setattr__(self, "tensor", tensors.pop(0))
        object.__setattr__(self, "decoder", MappingProxyType(tensors))
        object.__setattr__(self, "responses", MappingProxyType(responses))

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        """A float32 copy on the CPU; ValueError where its values are not finite."""
        if not torch.isfinite(tensor).all():
            raise ValueError(f"Concept '{self.name}' has values that are not finite; find or download it again.")
        return tensor.detach().to("cpu", torch.float32).contiguous().clone()

    def _fitting(self, site: int, tensor: torch.Tensor | None, response: Response) -> Response:
        """A copy of a response; ValueError where it does not fit the tensor of its site."""
        up, down = response
        width = 0 if tensor is None else len(tensor)
        if up.ndim != 2 or not up.shape[1] or up.shape[0] != width or down.shape != up.shape[::-1]:
            raise ValueError(
                f"Concept '{self.name}': the response at site {site} is {list(up.shape)} and {list(down.shape)}; "
                f"[{width}, R] and [R, {width}] are needed. Find or download it again."
            )
        return Response(self._own(up), self._own(down))

    @property
    def tensors(self) -> dict[int, torch.Tensor]:
        """The tensors of all sites, by number."""
        return {0: self.tensor, **self.decoder}

    def scaled(self, factor: float) -> Vector:
        """The vector times a number, at every site; `provenance` stays as it is."""
        decoder = {site: factor * tensor for site, tensor in self.decoder.items()}
        responses = {site: response.scaled(factor) for site, response in self.responses.items()}
        return replace(self, tensor=factor * self.tensor, decoder=decoder, responses=responses)

    def __reduce__(self):
        # A mapping proxy cannot be copied or pickled, and packs deep-copy what travels through graphs.
        return Vector, self._values

    @property
    def _values(self) -> tuple:
        return self.tensor, self.name, self.family, self.provenance, dict(self.decoder), dict(self.responses)

    @property
    def steers(self) -> bool:
        """False where it adds nothing to any h."""
        responses = [response.up for response in self.responses.values()]
        return any(bool(tensor.any()) for tensor in [*self.tensors.values(), *responses])

    @cached_property
    def content(self) -> str:
        """Hex digest of all that decides what it adds, its family and its name; equal vectors have the same."""
        digest = hashlib.sha256(f"{self.family}|{self.name}|".encode())
        for site, tensor in self.tensors.items():
            digest.update(f"{site}|{list(tensor.shape)}|".encode() + tensor.numpy().tobytes())
        for site, response in self.responses.items():
            digest.update(f"{site}|{response.rank}|".encode() + b"".join(part.numpy().tobytes() for part in response))
        return digest.hexdigest()

    def __eq__(self, other):
        # Two loads of one file are one vector, so that sums store it once.
        return isinstance(other, Vector) and self.content == other.content

    def __hash__(self):
        return hash(self.content)

    def parts(self) -> tuple[Concept, ...]:
        return ()

    def vectors(self) -> tuple[Vector, ...]:
        return (self,)

    def choices(self) -> tuple[Choice, ...]:
        return ()

    def describe(self) -> str:
        return self.name

    @property
    def examples(self) -> Examples:
        tensors = self.tensors
        maps = [site for site, tensor in tensors.items() if tensor.shape[1:] != (1, 1)]
        return Examples(dict.fromkeys(tensors, self), dict.fromkeys(maps, self))

    @property
    def same_for_all(self) -> bool:
        return True

    @property
    def moves_along_batch(self) -> bool:
        return False

    @property
    def deals(self) -> bool:
        return False

    def combine(self, images, fractions, values, site) -> torch.Tensor:
        return torch.ones(len(images), 1)


@dataclass(frozen=True, eq=False, repr=False)
class UnfinishedVector(Vector):
    """The vector of a discovery that was stopped, with what continues it.

    Args:
        state: tensors that `VectorOptimiser.resume` reads.
    """

    state: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "state", MappingProxyType(dict(self.state)))

    def __reduce__(self):
        return UnfinishedVector, (*self._values, dict(self.state))
