"""What a discovery adds to h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..concepts import Response, resize_vector


@dataclass(frozen=True)
class Addition:
    """What is added to h, by site. Gradients go through it.

    Args:
        constants: `[C, H, W]`, resized where h has another size, or `[C, 1, 1]`, float32 on the model's device.
        responses: what is added there beside them, depending on h.
    """

    constants: Mapping[int, torch.Tensor]
    responses: Mapping[int, Response] = field(default_factory=dict)

    def added_to(self, h: torch.Tensor, site: int) -> torch.Tensor:
        """h `[B, C, H, W]` with what is added to it at a site."""
        if site not in self.constants:
            return h
        added = resize_vector(self.constants[site], (h.shape[-2], h.shape[-1]))
        if site in self.responses:
            added = added + self.responses[site].of(h)
        return h + added.to(h.dtype)

    def scaled(self, factor: float) -> Addition:
        """All of it times a number, without a graph."""
        return Addition(
            {site: factor * tensor.detach() for site, tensor in self.constants.items()},
            {site: Response(r.up.detach(), r.down.detach()).scaled(factor) for site, r in self.responses.items()},
        )
