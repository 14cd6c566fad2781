"""Targets and losses of discovery, in the model's own prediction space (epsilon or v)."""

from __future__ import annotations

import torch


def prediction_scale(model_sampling, sigma: torch.Tensor) -> torch.Tensor:
    """Factor `[B, 1, 1, 1]` from differences of denoised x0 to differences of the model's raw prediction.

    Denoised x0 is affine in the prediction for every parametrisation ComfyUI has, so the slope at this sigma is all
    there is to know: 1 / sigma for epsilon, sqrt(sigma^2 + 1) / sigma for v with sigma_data 1.
    """
    one = torch.ones(sigma.shape[0], 1, 1, 1, device=sigma.device)
    slope = model_sampling.calculate_denoised(sigma, one, torch.zeros_like(one))
    return 1 / slope.abs().float()


def teacher_target(
    base: torch.Tensor, concept: torch.Tensor, guidance: float, avoid: torch.Tensor | None = None
) -> torch.Tensor:
    """What the steered model should predict: `base + g (concept - base)`, and away from `avoid` by the same rule.

    All are denoised x0 `[B, C, H, W]` of the frozen model at the same x_t. Where concept and base are one prompt this
    is `base + g (base - avoid)`, classifier-free guidance with a negative prompt.
    """
    target = base + guidance * (concept - base)
    return target if avoid is None else target + guidance * (concept - avoid)


def relative_error(
    predicted: torch.Tensor, target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Squared error of each sample `[B]` as a share of the squared difference that there was to explain.

    1 where the vector does nothing, 0 where it does all that the teacher does. The division gives every noise level
    and every pair the same say; without it low noise, where a constant vector can explain least, dominates. A sample
    whose base prediction already is the target counts as a tenth of the batch's mean, or it would drown all others.
    """
    return mean_square((predicted - target) * scale) / _wanted(target, base, scale)


def relative_reach(
    predicted: torch.Tensor, target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor, guidance: float
) -> torch.Tensor:
    """How far each sample `[B]` moved along the concept: 1 is as far as the concept prompt moves the prediction.

    The projection of what the vector changes on what the teacher changes, in units of the teacher at guidance 1. A vector
    that is fitted to a teacher of guidance 3 and explains half of it has a reach of 1.5.
    """
    moved = ((predicted - base) * (target - base) * scale**2).float().flatten(1).mean(1)
    return guidance * moved / _wanted(target, base, scale)


def _wanted(target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Mean square `[B]` of the change that the teacher asks for, a tenth of the batch's mean at least."""
    difference = mean_square((target - base) * scale)
    return torch.maximum(difference, 0.1 * difference.mean()).clamp_min(1e-12)


def mean_square(tensor: torch.Tensor) -> torch.Tensor:
    """Mean square over all but the first dimension, float32 `[B]`."""
    return tensor.float().square().flatten(1).mean(1)
