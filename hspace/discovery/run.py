"""One discovery while it runs: what the loops of all recipes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import torch

from ..concepts import Vector
from .frozen_model import FrozenModel
from .observer import Observer, Progress
from .optimiser import VectorOptimiser
from .preview import Preview
from .recipe import Recipe
from .settings import DiscoverySettings
from .streams import Stream, generator


@dataclass
class Run:
    """One discovery while it runs.

    Attributes:
        shape: of a batch of latents, `[B, C, h, w]`.
        device: of the model.
        vector: gives the vector so far.
        preview: makes the pictures for the observer; None shows it the states themselves.
    """

    settings: DiscoverySettings
    recipe: Recipe
    model: FrozenModel
    optimiser: VectorOptimiser
    shape: tuple[int, int, int, int]
    device: torch.device
    observer: Observer
    vector: Callable[[], Vector]
    preview: Preview | None = None

    @property
    def finished(self) -> bool:
        """True after the last step."""
        return self.optimiser.finished

    def random(self, stream: Stream, *place: int) -> torch.Generator:
        """A generator of one of the run's streams."""
        return generator(self.settings.seed, stream, *place)

    def pairs(self, number: int) -> list[int]:
        """The pair of each image of batch `number`."""
        return self.model.prompts.of_batch(self.shape[0], number, self.settings.seed)

    def descend(self, errors: torch.Tensor) -> None:
        """One optimiser step on the errors `[B]`; the backward pass counts as an evaluation an image."""
        self.model.evaluations += errors.shape[0]
        self.optimiser.descend(errors)

    def report(self, states: torch.Tensor) -> None:
        """Tell the observer of the step just taken.

        Raises:
            comfy.model_management.InterruptProcessingException: the user has cancelled.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        optimiser = self.optimiser
        if self.preview is not None:
            states = self.preview.show(optimiser.addition, optimiser.step, optimiser.finished)
        self.observer.step(Progress(optimiser.step, self.settings.steps, optimiser.losses[-1], states, self.vector))
