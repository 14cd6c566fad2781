"""Directions and masks at another size of h."""

from __future__ import annotations

import comfy.utils
import torch
import torch.nn.functional as F


def resize_direction(direction: torch.Tensor, size) -> torch.Tensor:
    """`[C, H, W]` to another map size: bilinear, values kept (not energy); `[C, 1, 1]` is left to broadcast."""
    if direction.shape[1:] == (1, 1) or direction.shape[1:] == tuple(size):
        return direction.expand(-1, *size)
    return F.interpolate(direction[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def resize_mask(mask: torch.Tensor, batch: int, size) -> torch.Tensor:
    """`[B, 1, H, W]` to `[1 or batch, 1, h, w]`, averaged over the area of each h pixel."""
    mask = F.interpolate(mask, size=tuple(size), mode="area")
    return mask if mask.shape[0] == 1 else comfy.utils.repeat_to_batch_size(mask, batch)
