"""Where each image of a batch is in its sampling run, at each step of a discovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class RollOutState(NamedTuple):
    """What sampling runs that were stopped need to go on.

    Attributes:
        latents: the next states `[B, C, h, w]`.
        sigma: theirs, `[B]`; 0 where an image's run has ended.
        began: the step with which the runs began.
    """

    latents: torch.Tensor
    sigma: torch.Tensor
    began: int


@dataclass(frozen=True)
class Place:
    """Where an image is.

    Attributes:
        run: number of its sampling run, from 0.
        whole: false for a first run that is shorter than the others.
        sigma: of its state.
        next_sigma: of its next state; 0 where the run ends with this one.
        begins: true for the first state of a run.
    """

    run: int
    whole: bool
    sigma: float
    next_sigma: float
    begins: bool


class RollOutSchedule:
    """Sampling runs, one after another for each image of a batch.

    They are spread over the noise schedule: the first run of image i of B visits the share 1 - i / B of the states, so
    that from then on each batch holds all noise levels. Where images share their level, each step follows what that one
    level asks for, and vectors of different seeds are less alike (docs/decisions.md).

    Args:
        sigmas: of a whole run, falling.
        batch: number of images.
        spread: false where all images must share one noise level.
        began: the step with which the runs begin.
    """

    def __init__(self, sigmas: list[float], batch: int, *, spread: bool, began: int = 0):
        self.began = began
        self._sigmas = sigmas
        lengths = [max(1, round(len(sigmas) * (batch - i) / batch)) if spread else len(sigmas) for i in range(batch)]
        self._first = [[sigmas[round(k * len(sigmas) / length)] for k in range(length)] for length in lengths]

    def at(self, step: int) -> list[Place]:
        """The place of each image at a step of the discovery."""
        return [self._place(first, step - self.began) for first in self._first]

    def before(self, step: int) -> list[float]:
        """The sigma that each image was brought to by the step before this one; 0 where its run ended."""
        return [place.next_sigma for place in self.at(step - 1)]

    def _place(self, first: list[float], done: int) -> Place:
        run, sigmas, place = 0, first, done
        if done >= len(first):
            run, place = divmod(done - len(first), len(self._sigmas))
            run, sigmas = run + 1, self._sigmas
        follows = sigmas[place + 1] if place + 1 < len(sigmas) else 0.0
        return Place(run, len(sigmas) == len(self._sigmas), sigmas[place], follows, place == 0)
