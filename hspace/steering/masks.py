"""Masks: the part that a call sees, at the size of h."""

from __future__ import annotations

import logging

import comfy.utils
import torch
import torch.nn.functional as F


def warn_of_a_crop(mask: torch.Tensor, latent: tuple[int, int, int]) -> None:
    """Warn where the mask is not of the image that is sampled; detailers sample crops of images."""
    height, width = latent[1:]
    stretched = mask.shape[-2] * width / (mask.shape[-1] * height)
    if not 0.97 < stretched < 1.03 or mask.shape[-1] >= 8 * (width + 1):
        logging.warning(
            "Apply H-Space Steering: mask: it is %d x %d, and the image that is sampled %d x %d. It is scaled to "
            "that; if this is a crop of the image that the mask was drawn on (a detailer's), it is not where you "
            "drew it.",
            *mask.shape[-2:],
            8 * height,
            8 * width,
        )


def part_of_mask(
    mask: torch.Tensor, latent: tuple[int, int, int], crop, indices: tuple[int, ...] | None
) -> torch.Tensor:
    """The part of a mask `[B, 1, H, W]` that a chunk sees, `[1 or images, 1, h, w]`."""
    if indices is not None and mask.shape[0] > 1:
        mask = comfy.utils.repeat_to_batch_size(mask, latent[0])[list(indices)]
    if crop is None:
        return mask
    y, x, height, width = crop
    return F.interpolate(mask, size=latent[1:], mode="area")[..., y : y + height, x : x + width]


def resize_mask(mask: torch.Tensor, batch: int, size) -> torch.Tensor:
    """`[B, 1, H, W]` to `[1 or batch, 1, h, w]`, averaged over the area of each h pixel."""
    mask = F.interpolate(mask, size=tuple(size), mode="area")
    return mask if mask.shape[0] == 1 else comfy.utils.repeat_to_batch_size(mask, batch)
