"""Steer a whole model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..bottleneck import find_bottleneck
from ..concepts import Concept, check_finite
from .curve import checked_curve
from .patch import HALVES, SteeringPatch, check_window


def apply_steering(
    model,
    concept: Concept,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    half: str = "positive",
    mask: torch.Tensor | None = None,
    curve: Sequence[float] = (),
):
    """A clone of `model` (ModelPatcher) that is steered: `h + strength * v` at the entrance of the decoder.

    Strength 0, or a concept of no vectors, gives a plain clone, so its images equal those of no node bit for bit.

    Args:
        concept: what to add.
        strength: factor on every coefficient; negative steers away.
        start_percent, end_percent: window of sampling in [0, 1], 0 the noisiest.
        half: of classifier-free guidance, one of `HALVES`; "positive" is the paper's choice.
        mask: `[B, H, W]` in [0, 1] at any size; nothing is added where it is 0.
        curve: factors on the strength, evenly spaced over the window and linear between them; empty for a constant one.

    Raises:
        ValueError: numbers that are not finite, a model without a bottleneck, a concept of another model family, an
            unknown half, or an empty window.
    """
    check_finite("strength", strength)
    check_finite("mask", mask)
    factors = checked_curve(curve)
    bottleneck = find_bottleneck(model)
    bottleneck.check_fits(concept)
    if half not in HALVES:
        raise ValueError(f"apply_to: '{half}' is not one of {', '.join(HALVES)}.")
    check_window(start_percent, end_percent)
    if strength == 0 or not concept.vectors():
        return model.clone()
    window = (start_percent, end_percent)
    return SteeringPatch(concept, strength, bottleneck, window, half, mask, factors).attach(model)
