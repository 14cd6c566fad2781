"""The tensors of a concept: what discovery finds, files hold and steering adds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch

from .concept import Concept
from .provenance import Provenance


@dataclass(frozen=True, eq=False)
class Vector(Concept):
    """One vector in h-space.

    Args:
        tensor: float32 on the CPU, `[C, H, W]`, or `[C, 1, 1]` for a vector without a spatial map.
        name: what people call the concept.
        family: base-model family as `Bottleneck.family` names it.
        provenance: how it was found.

    Raises:
        ValueError: another number of dimensions, or values that are not finite.
    """

    tensor: torch.Tensor
    name: str
    family: str
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self):
        if self.tensor.ndim != 3:
            raise ValueError(f"Concept '{self.name}': a vector is [C, H, W], found {list(self.tensor.shape)}.")
        if not torch.isfinite(self.tensor).all():
            raise ValueError(f"Concept '{self.name}' has values that are not finite; find or download it again.")
        object.__setattr__(self, "tensor", self.tensor.detach().to("cpu", torch.float32).contiguous().clone())

    @cached_property
    def _content(self) -> str:
        values = self.tensor.numpy().tobytes()
        return hashlib.sha256(f"{self.family}|{self.name}|{list(self.tensor.shape)}|".encode() + values).hexdigest()

    def __eq__(self, other):
        # Two loads of one file are one vector, so that sums store it once.
        return isinstance(other, Vector) and self._content == other._content

    def __hash__(self):
        return hash(self._content)

    def parts(self) -> tuple[Concept, ...]:
        return ()

    def vectors(self) -> tuple[Vector, ...]:
        return (self,)

    def evaluate(self, fractions, strides) -> torch.Tensor:
        return torch.ones(len(fractions), 1)

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
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
        values = (self.tensor, self.name, self.family, self.provenance, dict(self.state))
        return UnfinishedVector, values
