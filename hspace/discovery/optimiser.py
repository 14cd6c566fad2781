"""Adam on one vector: learning rates, state, and continuing an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..concepts import Response
from .addition import Addition
from .objective import Reach
from .recipe import Recipe
from .running_mean import RunningMean
from .settings import DiscoverySettings

ADAM_STATE = ("exp_avg", "exp_avg_sq")
LONGEST, LONGEST_AT_NO_REACH, LONGEST_BY_REACH = 1.6, 0.75, 1.35
"""A vector is made at most so many times as long, and at most the second plus the third times its reach in clear
states: the less of its concept it explains where the image shows it by now, the sooner it harms when it is longer
(docs/decisions.md). Nothing longer than the first was ever needed."""
BEYOND = 1.3
"""The reach that a vector with responses gets where there is something to avoid: at 1, some prompts that ask for what
it is to lack still get it. Constants that long would harm what they are to leave alone (docs/decisions.md)."""
RESPONSE_RATE = 0.01
"""Learning rate of a response, which is relative to h itself, as a share of that of a constant, which is relative to
the RMS of h."""
REACH_FROM = 0.75
"""Share of the steps after which the vector is near enough to its end to measure its reach, and to be averaged."""
_MEANS = {"reach": {}, "clear_reach": {}, "asked": {"signed": False}}
"""Options of the means in the state of a vector. The first is always there, the others where they are of something."""
_DAMAGED = "start_from: the saved optimiser state does not fit its vector; the file is damaged."


class VectorOptimiser:
    """The vector while it is being learnt, one tensor a site.

    Args:
        tensors: by site, float32 `[C, H, W]` or `[C, 1, 1]` on the model's device; changed in place.
        recipe: learning rate and betas.
        settings: steps, learning rate, spatial mean and calibration.
        responses: what is added beside them depending on h, by site; changed in place as well.
        avoids: true where there are prompts to stay away from, so that a vector is to go beyond its concept.

    Attributes:
        losses: mean error of each step, those of an interrupted run included.
        rms: root mean square of h by site, to which `DISTILLED` relates its learning rates; None until it is measured.
        longest: the greatest factor on the learnt vector that images bear (`sound_length`); None until it is measured.
    """

    def __init__(
        self,
        tensors: Mapping[int, torch.Tensor],
        recipe: Recipe,
        settings: DiscoverySettings,
        avoids: bool = False,
        responses: Mapping[int, Response] | None = None,
    ):
        self.tensors = {site: tensor.requires_grad_(True) for site, tensor in tensors.items()}
        self.responses = {site: Response(*(t.requires_grad_(True) for t in r)) for site, r in (responses or {}).items()}
        self.recipe, self.settings, self.avoids = recipe, settings, avoids
        groups = [{"params": [tensor]} for tensor in self.tensors.values()]
        groups += [{"params": [*response]} for response in self.responses.values()]
        self.adam = torch.optim.Adam(groups, betas=recipe.betas)
        self.losses: list[float] = []
        self.rms: dict[int, float] | None = None
        self.longest: float | None = None
        self._means = {name: RunningMean(**options) for name, options in _MEANS.items()}
        self._errors: list[torch.Tensor] = []
        self._reaches: list[Reach] = []
        self._changes: list[torch.Tensor] = []

    @property
    def step(self) -> int:
        """Steps taken, those of an interrupted run included."""
        return len(self.losses)

    @property
    def finished(self) -> bool:
        """True after the last step."""
        return self.step >= self.settings.steps

    @property
    def near_end(self) -> bool:
        """True where the next step is one of the last quarter."""
        return self.step + 1 > REACH_FROM * self.settings.steps

    @property
    def addition(self) -> Addition:
        """What to add to h at the next step: constants `[C, H, W]`, or with `spatial_mean` near the end `[C, 1, 1]`."""
        if self.settings.spatial_mean and self.near_end:
            means = {site: tensor.mean((1, 2), keepdim=True) for site, tensor in self.tensors.items()}
            return Addition(means, self.responses)
        return Addition(self.tensors, self.responses)

    def learning_rate(self, site: int) -> float:
        """The rate of the next step at a site."""
        return self._rate(self._rms_at(site))

    def _rate(self, rms: float) -> float:
        return self.recipe.learning_rate(self.settings.learning_rate, self.step / self.settings.steps, rms)

    def _rms_at(self, site: int) -> float:
        return 1.0 if self.rms is None else self.rms[site]

    @property
    def _learnt(self) -> list[tuple[str, int, torch.Tensor]]:
        """All tensors that are learnt, with what tells their state apart: the half of a response, and the site."""
        constants = [("", site, tensor) for site, tensor in self.tensors.items()]
        halves = [(f"_{half}", site, t) for site, r in self.responses.items() for half, t in r._asdict().items()]
        return constants + halves

    def begin(self) -> None:
        """Begin a step anew; whatever `backward` gathered since the last one is dropped."""
        self.adam.zero_grad()
        self._errors, self._reaches, self._changes = [], [], []

    def backward(
        self,
        errors: torch.Tensor,
        weights: torch.Tensor | None = None,
        reach: Reach | None = None,
        change: torch.Tensor | None = None,
    ) -> None:
        """Take the errors `[b]` of a part of the batch, or of all of it, into the step that was begun.

        The sum goes backward, not the mean, or fp16 gradients would underflow; `descend` divides.

        Args:
            weights: of each image's error in the gradient, `[b]`; None for equal ones.
            reach: of each image that something is asked of, near the end.
            change: mean square of what is asked of each image that something is asked of, where there are others.
        """
        (errors if weights is None else errors * weights).sum().backward()
        self._errors.append(errors.detach())
        if reach is not None:
            self._reaches.append(reach)
        if change is not None:
            self._changes.append(change)

    def descend(self) -> None:
        """Take the step, on the mean of the errors.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
        """
        errors = torch.cat(self._errors)
        loss = errors.mean().item()
        gradients = [tensor.grad for _, _, tensor in self._learnt if tensor.grad is not None]
        finite = len(gradients) == len(self._learnt) and all(torch.isfinite(gradient).all() for gradient in gradients)
        if not (finite and math.isfinite(loss)):
            raise FloatingPointError(
                f"Discovery stopped at step {self.step + 1}: the loss is not a number. Lower learning_rate or "
                "guidance, or run the model in bf16 or fp32."
            )
        for gradient in gradients:
            gradient /= len(errors)
        # Loops of benchmarks add groups of their own after these.
        rates = [self.learning_rate(site) for site in self.tensors]
        rates += [RESPONSE_RATE * self._rate(1.0)] * len(self.responses)
        for rate, group in zip(rates, self.adam.param_groups, strict=False):
            group["lr"] = rate
        self.adam.step()
        self.losses.append(loss)
        if self._reaches:
            values, clear = (torch.cat(parts) for parts in zip(*self._reaches, strict=True))
            self._means["reach"].add(values.mean())
            self._means["clear_reach"].add(values[clear])
        if self._changes:
            self._means["asked"].add(torch.cat(self._changes))

    def take_back(self) -> int:
        """Count the last step as not taken, so that it is taken again; returns the steps taken."""
        self.losses.pop()
        return self.step

    @property
    def change_asked(self) -> float:
        """Mean square of what was asked of an image so far; before the first one 1, that of what a model predicts."""
        asked = self._means["asked"].value
        return 1.0 if asked is None else asked

    @property
    def reach(self) -> float | None:
        """Mean reach of the vector over the last steps; None where it was not measured."""
        return self._means["reach"].value

    @property
    def clear_reach(self) -> float | None:
        """The same over clear states alone; None where there were none."""
        return self._means["clear_reach"].value

    @property
    def calibrates(self) -> bool:
        """True where the vector, once it is learnt, is to be scaled."""
        return self.settings.calibrate and self.finished and (self.reach or 0.0) > 0

    @property
    def needs_longest(self) -> bool:
        """True where the vector, once it is learnt, may be too long for images: where it has responses."""
        return self.calibrates and bool(self.responses)

    @property
    def settled(self) -> bool:
        """True where the vector is learnt, and as long as it is to be."""
        return self.finished and (self.longest is not None or not self.needs_longest)

    @property
    def scale(self) -> float:
        """The factor on the settled vector: what its reach asks for, and no longer than images bear."""
        if not self.settled:
            return 1.0
        return self.wanted_scale if self.longest is None else min(self.wanted_scale, self.longest)

    @property
    def wanted_scale(self) -> float:
        """The factor on the learnt vector that brings its reach to 1, or to `BEYOND`, or as near to it as helps; at
        least 1 where it falls short or there is something to avoid, and 1 where there is no reach.
        """
        if not self.calibrates:
            return 1.0
        reach = self.reach or 0.0
        longest = min(LONGEST, LONGEST_AT_NO_REACH + LONGEST_BY_REACH * (self.clear_reach or 0.0))
        goal = BEYOND if self.avoids and self.responses else 1.0
        scale = min(goal / reach, max(1.0, longest))
        return max(1.0, scale) if self.avoids else scale

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that `resume` needs: Adam's moments, the losses, and the sizes of h that rates refer to."""
        state = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        state |= {name: mean.state() for name, mean in self._means.items() if mean.count or name == "reach"}
        if self.finished:
            state["learnt"] = torch.tensor(float(self.step)).double()
        state |= {_key("rms", site): torch.tensor(self._rms_at(site)) for site in self.tensors}
        for half, site, tensor in self._learnt:
            moments = self.adam.state.get(tensor, {})
            state |= {_key(name + half, site): moments[name] for name in ADAM_STATE if name in moments}
        return state

    def resume(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state()` of an interrupted run.

        Raises:
            ValueError: the state does not belong to this vector.
        """
        needed = {_key(name + half, site): t.shape for half, site, t in self._learnt for name in ADAM_STATE}
        needed |= {_key("rms", site): torch.Size([]) for site in self.tensors}
        fits = "reach" in state and all(key in state and state[key].shape == shape for key, shape in needed.items())
        if not fits or "losses" not in state or state["losses"].ndim != 1 or not len(state["losses"]):
            raise ValueError(_DAMAGED)
        try:
            self._means = {name: RunningMean(state.get(name), **options) for name, options in _MEANS.items()}
        except ValueError as error:
            raise ValueError(_DAMAGED) from error
        steps = len(state["losses"])
        # A run that is to be shorter than this by now takes one more step, near whose end a reach is measured.
        learnt = "learnt" in state and steps == self.settings.steps
        self.losses = state["losses"][: self.settings.steps - (not learnt)].tolist()
        self.rms = {site: state[_key("rms", site)].item() for site in self.tensors}
        for half, site, tensor in self._learnt:
            # Copies: nodes load files in inference mode, and Adam may not change such tensors in place.
            moments = {name: state[_key(name + half, site)].to(tensor, copy=True) for name in ADAM_STATE}
            self.adam.state[tensor] = {"step": torch.tensor(float(steps)), **moments}


def _key(name: str, site: int) -> str:
    """Of a tensor of the state: the name alone for site 0, as before there were others."""
    return name if site == 0 else f"{name}.{site}"
