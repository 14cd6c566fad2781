"""One discovery while it runs: what the loops of all recipes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import comfy.model_management
import torch

from ..concepts import Vector
from .frozen_model import FrozenModel
from .objective import Reach
from .observer import Observer, Progress
from .optimiser import VectorOptimiser
from .preview import Preview
from .recipe import Recipe
from .roll_out_schedule import RollOutState
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
        recompute: makes the decoder recompute activations from now on, which takes less memory; None where it does.
        roll_out: where the sampling runs are that steps are taken on; None before the first step, and where there are
            none.
        part: images that pass the U-Net at a time; fewer than the batch where memory ran out.
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
    recompute: Callable[[], None] | None = None
    roll_out: RollOutState | None = None

    def __post_init__(self):
        self.part = self.shape[0]

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

    def backward(
        self,
        errors: torch.Tensor,
        weights: torch.Tensor | None = None,
        reach: Reach | None = None,
        change: torch.Tensor | None = None,
    ) -> None:
        """The backward pass of `VectorOptimiser.backward`, which counts as an evaluation an image."""
        self.model.evaluations += errors.shape[0]
        self.optimiser.backward(errors, weights, reach, change)

    def in_parts(self, work: Callable[[slice], torch.Tensor], images: int) -> torch.Tensor:
        """`work(part)` on a batch of images, outputs joined; in smaller and smaller parts where memory runs out.

        Then it begins anew, so `work` must not count on being called once an image.

        Raises:
            comfy.model_management.OOM_EXCEPTION: one image alone is too much, recomputed activations or not.
        """
        while True:
            try:
                return torch.cat([work(slice(start, start + self.part)) for start in range(0, images, self.part)])
            except comfy.model_management.OOM_EXCEPTION:
                if not self._can_save_memory:
                    raise
            self._save_memory()

    def step(self, work: Callable[[slice], torch.Tensor], images: int) -> torch.Tensor:
        """One optimiser step on a batch of images, whose `work` calls `backward`; outputs joined as by `in_parts`."""

        def from_the_start(part: slice) -> torch.Tensor:
            if part.start == 0:
                self.optimiser.begin()
            return work(part)

        outputs = self.in_parts(from_the_start, images)
        self.optimiser.descend()
        return outputs

    @property
    def _can_save_memory(self) -> bool:
        return self.part > 1 or self.recompute is not None

    def _save_memory(self) -> None:
        self.optimiser.begin()
        comfy.model_management.soft_empty_cache()
        if self.part > 1:
            self.part = (self.part + 1) // 2
            self.observer.note(
                f"Memory ran out, so from step {self.optimiser.step + 1} on {self.part} images pass the model at a "
                f"time, {self.shape[0]} a step as before."
            )
        elif self.recompute is not None:
            self.recompute()
            self.recompute = None
            self.observer.note("Memory ran out at one image at a time, so gradient_checkpointing was switched on.")

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that an unfinished vector needs, so that the run goes on as if it had not been stopped."""
        state = self.optimiser.state() | {"evaluations": torch.tensor(float(self.model.evaluations)).double()}
        if self.roll_out is not None:
            latents, sigma, began = self.roll_out
            state |= {"latents": latents, "sigma": sigma, "began": torch.tensor(float(began)).double()}
        return state

    def resume(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state()` of an interrupted run.

        A sampling run of other settings cannot be gone on with; then the next step begins one, and the observer hears.

        Raises:
            ValueError: the state does not belong to this vector.
        """
        self.optimiser.resume(state)
        if "evaluations" in state and state["evaluations"].numel() == 1:
            self.model.evaluations += int(state["evaluations"].item())
        if {"latents", "sigma", "began"} <= set(state):
            began = state["began"].flatten().tolist()
            if len(began) != 1 or began[0] not in range(len(state["losses"])):
                raise ValueError("start_from: the saved sampling run does not fit its vector; the file is damaged.")
            latents, sigma = (state[name].to(self.device, copy=True) for name in ("latents", "sigma"))
            self.roll_out = RollOutState(latents, sigma, int(began[0]))

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
