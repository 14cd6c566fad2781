"""What a vector adds in answer to what is there."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

MAX_RANK = 64


class Response(NamedTuple):
    """A linear map of h of low rank, the same at every place of the map: `up @ down @ h`.

    Attributes:
        up: `[C, R]`.
        down: `[R, C]`.
    """

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        """R."""
        return self.down.shape[0]

    def scaled(self, factor: float) -> Response:
        """The map times a number."""
        return Response(factor * self.up, self.down)

    def to(self, *where, **options) -> Response:
        """Both factors on another device or in another dtype, as `torch.Tensor.to`."""
        return Response(self.up.to(*where, **options), self.down.to(*where, **options))

    def of(self, h: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """What it adds to h `[B, C, H, W]`, in the dtype of its factors.

        Args:
            gate: factors on each of the R channels in between, `[1 or B, R, 1 or H, 1 or W]`.
        """
        inner = F.conv2d(h.to(self.down.dtype), self.down[..., None, None])
        return F.conv2d(inner if gate is None else gate * inner, self.up[..., None, None])


def side_by_side(responses: list[Response]) -> Response:
    """One map with the channels in between of several, whose sum it is."""
    return Response(torch.cat([r.up for r in responses], 1), torch.cat([r.down for r in responses], 0))
