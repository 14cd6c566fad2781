"""The interface between a discovery and those who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..concepts import Vector


@dataclass(frozen=True)
class Progress:
    """The state of a discovery after a step.

    Attributes:
        step, steps: how many are done, and how many there are.
        loss: mean error of the step.
        preview: a denoised latent as the sampler sees it: the states `[B, C, h, w]`, or a `Preview` `[1, C, 2 h, 2 w]`.
        vector: gives the vector so far; an `UnfinishedVector` until the last step.
    """

    step: int
    steps: int
    loss: float
    preview: torch.Tensor
    vector: Callable[[], Vector]


class Observer:
    """Watches a discovery; does nothing by itself.

    What `step` and `judged` raise ends the discovery. What `stopped` and `finished` raise is logged: the reason why a
    run stopped, and the finished vector, come first.

    Attributes:
        preview_every: steps from one `Preview` to the next; 0 for none, and the states of each step instead.
    """

    preview_every = 0

    def step(self, progress: Progress) -> None:
        """Called after every step."""

    def judged(self) -> None:
        """Called after the last step, each time that the learnt vector has been judged by eight images."""

    def note(self, text: str) -> None:
        """Called with a line for the user, of something that the run does otherwise than they may expect."""

    def stopped(self, vector: Vector) -> None:
        """Called with the vector so far where the discovery was cancelled or failed after its first step."""

    def finished(self, vector: Vector) -> None:
        """Called with the finished vector."""
