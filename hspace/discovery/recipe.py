"""Discovery methods as values: the parts in which one differs from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import distilled, paper
from .objective import alike, by_requested_change, relative_error, squared_error, teacher_target

if TYPE_CHECKING:
    from .run import Run

Target = Callable[[Mapping[str, torch.Tensor], float], torch.Tensor]
Error = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Weight = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """The parts of a discovery method. `dataclasses.replace` makes a new method of an old one.

    Attributes:
        states: `states(run, samples)`, the loop that visits states x_t and takes a step at each. `samples` are batches
            of LATENT images, or None where none are given and none are needed. Returns LATENT images, those that it
            ended with or learnt from.
        target: `target(predictions by role, guidance)`, what the steered model should predict.
        error: `error(predicted, target, base, scale)`, `[B]`; see `objective`.
        learning_rate: `learning_rate(setting, done, rms)`, the rate of the next step from the user's setting, the share
            of the steps that are done, and the root mean square of h.
        betas: of Adam.
        start: half the width of the uniform distribution that the vector starts from; 0 for zeros.
        weight: `weight(target, base, scale)`, `[B]`, of each sample's error in the gradient.
        needs_samples: true where images are sampled under the concept prompts first, unless some are given.
    """

    states: Callable[[Run, Any], torch.Tensor]
    target: Target
    error: Error
    learning_rate: Callable[[float, float, float], float]
    betas: tuple[float, float]
    start: float = 0.0
    weight: Weight = alike
    needs_samples: bool = False


def guided_teacher(predictions: Mapping[str, torch.Tensor], guidance: float) -> torch.Tensor:
    """`objective.teacher_target` of predictions by role: base, and those there are of concept and avoid."""
    base = predictions["base"]
    return teacher_target(base, predictions.get("concept", base), guidance, predictions.get("avoid"))


def sampled_noise(predictions: Mapping[str, torch.Tensor], guidance: float) -> torch.Tensor:
    """The image itself, role "x0": the model should predict the noise that was really added."""
    return predictions["x0"]


def cosine_decay(setting: float, done: float, rms: float) -> float:
    """The setting relative to the RMS of h, decaying by half a cosine to a hundredth."""
    return setting * rms * max(0.5 * (1 + math.cos(math.pi * done)), 0.01)


def constant(setting: float, done: float, rms: float) -> float:
    """The setting as it is."""
    return setting


DISTILLED = Recipe(
    distilled.learn, guided_teacher, relative_error, cosine_decay, betas=(0.9, 0.99), weight=by_requested_change
)
PAPER = Recipe(paper.learn, sampled_noise, squared_error, constant, betas=(0.9, 0.999), start=0.1, needs_samples=True)
RECIPES = {"distilled": DISTILLED, "paper": PAPER}
"""By `DiscoverySettings.method`."""
