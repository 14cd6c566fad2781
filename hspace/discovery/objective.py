"""Targets and errors of discovery, in the model's own prediction space (epsilon or v).

Notation, code and paper (Li et al., CVPR 2024, section 3.2):

    vector           c          what is learnt, [C, H, W]
    x                x_t        states, [B, C, H, W], in k-diffusion's convention x0 + sigma * eps
    sigma            t          noise levels, [B]
    base             eps(y-)    prediction under the base prompts, as denoised x0
    concept          eps(y+)    prediction under the concept prompts, as denoised x0
    predicted        eps(x_t, t, y-; h + c)    the same under the base prompts, steered
    x0, eps          x0, eps    an image and the noise that was added to it
    scale            -          from differences of denoised x0 to differences of the model's prediction

ComfyUI's models return denoised x0. It is affine in the prediction, so errors are differences of x0 times `scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

GRADIENT_SCALE = 1024.0


class Reach(NamedTuple):
    """How far images moved along their concept.

    Attributes:
        values: `relative_reach` of each, `[b]`.
        clear: bool `[b]`, true where little noise is left.
    """

    values: torch.Tensor
    clear: torch.Tensor


def prediction_scale(model_sampling, sigma: torch.Tensor) -> torch.Tensor:
    """Factor `[B, 1, 1, 1]` from differences of denoised x0 to differences of the model's raw prediction.

    The slope of x0 in the prediction: 1 / sigma for epsilon, sqrt(sigma^2 + 1) / sigma for v with sigma_data 1.
    """
    one = torch.ones(sigma.shape[0], 1, 1, 1, device=sigma.device)
    slope = model_sampling.calculate_denoised(sigma, one, torch.zeros_like(one))
    return 1 / slope.abs().float()


def teacher_target(
    base: torch.Tensor, concept: torch.Tensor, guidance: float, avoid: torch.Tensor | None = None
) -> torch.Tensor:
    """`base + g (concept - base)`, and away from `avoid` by the same rule: what the steered model should predict.

    All are denoised x0 `[B, C, H, W]` of the frozen model at the same states. Where concept and base are one prompt
    this is `base + g (base - avoid)`, classifier-free guidance with a negative prompt.
    """
    target = base + guidance * (concept - base)
    return target if avoid is None else target + guidance * (concept - avoid)


def squared_error(
    predicted: torch.Tensor, target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Squared error of each sample `[B]` in prediction space, the paper's; `base` is not used."""
    return mean_square((predicted - target) * scale)


def relative_error(
    predicted: torch.Tensor, target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Squared error of each sample `[B]` as a share of the squared change that the teacher asks for.

    1 for a vector of zeros, 0 for one that does all that the teacher does: what is reported, and what the reach is
    measured like. A sample whose base prediction already equals the target counts as a tenth of the batch's mean, or
    it would outweigh all others.
    """
    return mean_square((predicted - target) * scale) / requested_change(target, base, scale)


def by_requested_change(target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weight `[B]` of each sample's relative error in the gradient: the size of what the teacher asks for there.

    It is a root mean square, so the weighted error lies between the relative one and the squared one in prediction
    space. With equal weights the noisiest states, where the teacher asks for little, decide as much as those where most
    is asked for, and a vector for a trait between two others, such as a medium skin tone, becomes one for either; with
    the squared error they decide too little (docs/decisions.md). Adam does not depend on a constant factor; this one
    keeps gradients in fp16 from underflowing.
    """
    return GRADIENT_SCALE * requested_change(target, base, scale).sqrt()


def alike(target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The same weight for each sample's error, `[B]`."""
    return torch.ones(len(target), device=target.device)


def relative_reach(
    predicted: torch.Tensor, concept: torch.Tensor, base: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """The distance `[B]` that each sample moved along the concept, 1 being as far as `concept` is from `base`.

    The projection of the vector's change on that of the concept. A vector fitted to a teacher of guidance 3 that
    explains half of it has a reach of 1.5.

    Args:
        concept: the prediction that a reach of 1 arrives at, `named_concept`.
    """
    moved = ((predicted - base) * (concept - base) * scale**2).float().flatten(1).mean(1)
    return moved / requested_change(concept, base, scale)


def named_concept(predictions: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What the concept prompt predicts; where only `avoid` names the concept, as far from the base the other way.

    What is avoided beside a concept prompt takes a teacher further, but is no part of how far the concept is.
    """
    base = predictions["base"]
    return predictions["concept"] if "concept" in predictions else 2 * base - predictions["avoid"]


def mean_square(tensor: torch.Tensor) -> torch.Tensor:
    """Mean square over all but the first dimension, float32 `[B]`."""
    return tensor.float().square().flatten(1).mean(1)


def requested_change(target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Mean square `[B]` of the change that the teacher asks for, a tenth of the batch's mean at least."""
    difference = mean_square((target - base) * scale)
    return torch.maximum(difference, 0.1 * difference.mean()).clamp_min(1e-12)
