"""Adam on one vector: learning rate, state, and continuing an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from .recipe import Recipe
from .settings import DiscoverySettings

ADAM_STATE = ("exp_avg", "exp_avg_sq")
REACH_FROM = 0.75
"""Share of the steps after which the vector is near enough to its end to measure its reach, and to be averaged."""


class VectorOptimiser:
    """The vector while it is being learnt.

    Args:
        vector: float32 `[C, H, W]` on the model's device; changed in place.
        recipe: learning rate and betas.
        settings: steps, learning rate, spatial mean and calibration.

    Attributes:
        first_step: steps of the interrupted run that this one continues.
        losses: mean error of each step of this run.
        rms: root mean square of h, to which `DISTILLED` relates its learning rate; None until it is measured.
    """

    def __init__(self, vector: torch.Tensor, recipe: Recipe, settings: DiscoverySettings):
        self.vector = vector.requires_grad_(True)
        self.recipe, self.settings = recipe, settings
        self.adam = torch.optim.Adam([self.vector], betas=recipe.betas)
        self.first_step, self.losses = 0, []
        self.rms: float | None = None
        self._reach_sum, self._reach_steps = 0.0, 0.0

    @property
    def step(self) -> int:
        """Steps taken, those of an interrupted run included."""
        return self.first_step + len(self.losses)

    @property
    def finished(self) -> bool:
        """True after the last step."""
        return self.step >= self.settings.steps

    @property
    def near_end(self) -> bool:
        """True where the next step is one of the last quarter."""
        return self.step + 1 > REACH_FROM * self.settings.steps

    @property
    def steering_vector(self) -> torch.Tensor:
        """The tensor to add to h at the next step: `[C, H, W]`, or with `spatial_mean` near the end `[C, 1, 1]`."""
        if self.settings.spatial_mean and self.near_end:
            return self.vector.mean((1, 2), keepdim=True)
        return self.vector

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        done = self.step / self.settings.steps
        return self.recipe.learning_rate(self.settings.learning_rate, done, 1.0 if self.rms is None else self.rms)

    def descend(self, errors: torch.Tensor) -> None:
        """One step on the errors `[B]` of a batch.

        The sum goes backward, not the mean: Adam gives the same step, and fp16 gradients do not underflow.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
        """
        self.adam.param_groups[0]["lr"] = self.learning_rate
        self.adam.zero_grad()
        errors.sum().backward()
        loss = errors.detach().mean().item()
        gradient = self.vector.grad
        if not math.isfinite(loss) or gradient is None or not torch.isfinite(gradient).all():
            raise FloatingPointError(
                f"Discovery stopped at step {self.step + 1}: the loss is not a number. Lower learning_rate or "
                f"guidance, "
                "or run the model in bf16 or fp32."
            )
        self.adam.step()
        self.losses.append(loss)

    def note_reach(self, reach: float) -> None:
        """Take a step's mean reach (`objective.relative_reach`) into account; called near the end."""
        self._reach_sum += reach
        self._reach_steps += 1

    @property
    def reach(self) -> float | None:
        """Mean reach of the vector over the last steps; None where it was not measured."""
        return self._reach_sum / self._reach_steps if self._reach_steps else None

    @property
    def scale(self) -> float:
        """The factor on the finished vector: 1 over its reach where that is more than 1, else 1."""
        reach = self.reach or 0.0
        return 1 / reach if self.settings.calibrate and self.finished and reach > 1 else 1.0

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that `resume` needs: Adam's moments, the step, and the size of h that rates refer to."""
        state = self.adam.state.get(self.vector, {})
        return {
            "step": torch.tensor(float(self.step)),
            "rms": torch.tensor(1.0 if self.rms is None else self.rms),
            "reach": torch.tensor([self._reach_sum, self._reach_steps]),
            **{key: state[key] for key in ADAM_STATE if key in state},
        }

    def resume(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state()` of an interrupted run.

        Raises:
            ValueError: the state does not belong to this vector.
        """
        if not {"step", "rms", *ADAM_STATE} <= set(state) or any(
            state[key].shape != self.vector.shape for key in ADAM_STATE
        ):
            raise ValueError("start_from: the saved optimiser state does not fit its vector; the file is damaged.")
        step = state["step"].flatten()[:1]
        self.first_step = min(int(step), self.settings.steps - 1)
        self.rms = state["rms"].flatten()[0].item()
        if "reach" in state and state["reach"].numel() == 2:
            self._reach_sum, self._reach_steps = state["reach"].flatten().double().tolist()
        self.adam.state[self.vector] = {
            "step": step[0].clone(),
            **{key: state[key].to(self.vector) for key in ADAM_STATE},
        }
