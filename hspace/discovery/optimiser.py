"""Adam on one vector: learning rates, state, and continuing an interrupted run."""

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
    """The vector while it is being learnt, one tensor a site.

    Args:
        tensors: by site, float32 `[C, H, W]` or `[C, 1, 1]` on the model's device; changed in place.
        recipe: learning rate and betas.
        settings: steps, learning rate, spatial mean and calibration.

    Attributes:
        first_step: steps of the interrupted run that this one continues.
        losses: mean error of each step of this run.
        rms: root mean square of h by site, to which `DISTILLED` relates its learning rates; None until it is measured.
    """

    def __init__(self, tensors: Mapping[int, torch.Tensor], recipe: Recipe, settings: DiscoverySettings):
        self.tensors = {site: tensor.requires_grad_(True) for site, tensor in tensors.items()}
        self.recipe, self.settings = recipe, settings
        groups = [{"params": [tensor]} for tensor in self.tensors.values()]
        self.adam = torch.optim.Adam(groups, betas=recipe.betas)
        self.first_step, self.losses = 0, []
        self.rms: dict[int, float] | None = None
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
    def addition(self) -> dict[int, torch.Tensor]:
        """The tensors to add to h at the next step: `[C, H, W]`, or with `spatial_mean` near the end `[C, 1, 1]`."""
        if self.settings.spatial_mean and self.near_end:
            return {site: tensor.mean((1, 2), keepdim=True) for site, tensor in self.tensors.items()}
        return self.tensors

    def snapshot(self) -> dict[int, torch.Tensor]:
        """Copies of the tensors as they are, by site, without a graph."""
        return {site: tensor.detach().clone() for site, tensor in self.tensors.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[int, torch.Tensor]) -> None:
        """Set the tensors to the values of a `snapshot`."""
        for site, tensor in self.tensors.items():
            tensor.copy_(tensors[site])

    def learning_rate(self, site: int) -> float:
        """The rate of the next step at a site."""
        rms = 1.0 if self.rms is None else self.rms[site]
        return self.recipe.learning_rate(self.settings.learning_rate, self.step / self.settings.steps, rms)

    def descend(self, errors: torch.Tensor) -> None:
        """One step on the errors `[B]` of a batch.

        The sum goes backward, not the mean: Adam gives the same step, and fp16 gradients do not underflow.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
        """
        for site, group in zip(self.tensors, self.adam.param_groups, strict=False):
            group["lr"] = self.learning_rate(site)
        self.adam.zero_grad()
        errors.sum().backward()
        loss = errors.detach().mean().item()
        gradients = [tensor.grad for tensor in self.tensors.values()]
        if not math.isfinite(loss) or not all(grad is not None and torch.isfinite(grad).all() for grad in gradients):
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
        """The tensors that `resume` needs: Adam's moments, the step, and the sizes of h that rates refer to."""
        state = {"step": torch.tensor(float(self.step)), "reach": torch.tensor([self._reach_sum, self._reach_steps])}
        for site, tensor in self.tensors.items():
            moments = self.adam.state.get(tensor, {})
            state[_key("rms", site)] = torch.tensor(1.0 if self.rms is None else self.rms[site])
            state |= {_key(name, site): moments[name] for name in ADAM_STATE if name in moments}
        return state

    def resume(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state()` of an interrupted run.

        Raises:
            ValueError: the state does not belong to this vector.
        """
        needed = {_key(name, site): tensor.shape for site, tensor in self.tensors.items() for name in ADAM_STATE}
        numbers = {"step", *(_key("rms", site) for site in self.tensors)}
        if not numbers <= set(state) or any(key not in state or state[key].shape != needed[key] for key in needed):
            raise ValueError("start_from: the saved optimiser state does not fit its vector; the file is damaged.")
        step = state["step"].flatten()[:1]
        self.first_step = min(int(step), self.settings.steps - 1)
        self.rms = {site: state[_key("rms", site)].flatten()[0].item() for site in self.tensors}
        if "reach" in state and state["reach"].numel() == 2:
            self._reach_sum, self._reach_steps = state["reach"].flatten().double().tolist()
        for site, tensor in self.tensors.items():
            # Copies: nodes load files in inference mode, and Adam may not change such tensors in place.
            moments = {name: state[_key(name, site)].to(tensor, copy=True) for name in ADAM_STATE}
            self.adam.state[tensor] = {"step": step[0].clone(), **moments}


def _key(name: str, site: int) -> str:
    """Of a tensor of the state: the name alone for site 0, as before there were others."""
    return name if site == 0 else f"{name}.{site}"
