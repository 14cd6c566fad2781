"""Vectors at another size of h."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def resize_vector(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`[C, H, W]` at another map size, bilinear: values are kept, not energy. `[C, 1, 1]` is broadcast.

    Args:
        tensor: `[C, H, W]` or `[C, 1, 1]`.
        size: height and width in pixels of h.
    """
    if tensor.shape[1:] == (1, 1) or tensor.shape[1:] == tuple(size):
        return tensor.expand(-1, *size)
    return F.interpolate(tensor[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
