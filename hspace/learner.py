"""The vector while it is being learnt: optimiser, forward passes, and what resumes an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import comfy.model_base
import comfy.model_management
import torch

from . import comfy_compat as compat
from . import conditioning as cond
from .maps import resize_direction
from .objective import mean_square, prediction_scale, relative_error, relative_reach, teacher_target
from .settings import DiscoverySettings

ADAM_BETAS = (0.9, 0.99)
ADAM_STATE = ("exp_avg", "exp_avg_sq")
REACH_FROM = 0.75
"""Share of the steps after which the vector is near enough to its end to measure its reach, and to be averaged."""


@dataclass
class Progress:
    """What a listener is told after each step.

    `preview` is a denoised latent as the sampler sees it: the state `[B, C, H, W]`, or a `Comparison` `[1, C, 2 H, 2 W]`.
    """

    step: int
    steps: int
    loss: float
    preview: torch.Tensor | None = None


@dataclass
class Learner:
    """The vector, its optimiser, and the forward passes of one discovery.

    Attributes:
        settings: what the user chose.
        model: the model that samples, inside `autograd.gradients_through`.
        conds: prepared conds by role: base, unconditional, and concept (absent where it equals base), avoid.
        vector: float32 `[C, H, W]` on the model's device; changed in place.
        options: model options of the run.
        rms: root mean square of h, measured in the first pass; learning rates are relative to it.
        reach_sum, reach_steps: what `reach` is the mean of.
        strength: of the vector in the pass that runs; 1 but for `denoise` with another.
    """

    settings: DiscoverySettings
    model: comfy.model_base.BaseModel
    conds: dict[str, list[dict]]
    vector: torch.Tensor
    options: dict
    first_step: int = 0
    losses: list[float] = field(default_factory=list)
    evaluations: int = 0
    rms: float | None = None
    reach_sum: float = 0.0
    reach_steps: float = 0.0
    strength: float = 1.0
    listener: Callable[[Progress], None] | None = None
    comparison: Callable[[], torch.Tensor] | None = None

    def __post_init__(self):
        self.vector.requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.vector], betas=ADAM_BETAS if self.distilled else (0.9, 0.999))
        self.student_options = compat.clone_options(self.options)
        compat.use_differentiable_attention(self.student_options["transformer_options"])
        compat.put_first(self.student_options["transformer_options"], self._add_vector)

    @property
    def distilled(self) -> bool:
        return self.settings.method == "distilled"

    @property
    def step(self) -> int:
        return self.first_step + len(self.losses)

    @property
    def finished(self) -> bool:
        return self.step >= self.settings.steps

    @property
    def near_end(self) -> bool:
        """Whether the step that runs now, or would run next, is one of the last quarter."""
        return self.step + 1 > REACH_FROM * self.settings.steps

    @property
    def steers_with(self) -> torch.Tensor:
        """What the vector adds to h, `[C, H, W]`, or `[C, 1, 1]` once it is averaged."""
        return self.vector.mean((1, 2), keepdim=True) if self.settings.spatial_mean and self.near_end else self.vector

    def _add_vector(self, h, hsp, transformer_options):
        if transformer_options["block"] != compat.DECODER_ENTRANCE:
            return h, hsp
        if self.rms is None:
            self.rms = h.detach().float().square().mean().sqrt().item()
        vector = resize_direction(self.steers_with, h.shape[2:])
        return h + (self.strength * vector).to(h.dtype), hsp

    def denoise(self, branches: list[list[dict]], x, sigma, steered=False, strength=1.0) -> list[torch.Tensor]:
        """Denoised x0 under each of several prepared conds, float32."""
        self.evaluations += x.shape[0] * len(branches)
        self.strength = strength
        options = self.student_options if steered else self.options
        return compat.denoise(self.model, branches, x, sigma, options)

    def branches(self, pairs: list[int]) -> dict[str, list[dict]]:
        """By role (base, concept, avoid; those there are), the conds that give image i of a batch pair `pairs[i]`."""
        roles = {role: self.conds[role] for role in ("base", "concept", "avoid") if role in self.conds}
        return {role: cond.rows(conds, [pair % len(conds) for pair in pairs]) for role, conds in roles.items()}

    def target(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        """The teacher's target from predictions by role."""
        base = seen["base"]
        return teacher_target(base, seen.get("concept", base), self.settings.guidance, seen.get("avoid"))

    def teach(self, x, sigma, pairs: list[int]) -> torch.Tensor:
        """One distilled step at the states `x`; returns the student's prediction there."""
        branches = self.branches(pairs)
        with torch.no_grad():
            seen = dict(zip(branches, self.denoise(list(branches.values()), x, sigma), strict=True))
        return self.follow(self.target(seen), x, sigma, branches["base"], seen["base"])

    def follow(self, target, x, sigma, prompts: list[dict], base: torch.Tensor) -> torch.Tensor:
        """One step towards a teacher's target at `x`, where the frozen model predicts `base` under the base prompts."""
        near_end = self.near_end
        with torch.enable_grad():  # samplers run under no_grad
            student = self.denoise([prompts], x, sigma, steered=True)[0]
            scale = prediction_scale(self.model.model_sampling, sigma)
            self.descend(relative_error(student, target, base, scale))
        if near_end:
            reach = relative_reach(student.detach(), target, base, scale, self.settings.guidance)
            self.reach_sum += reach.mean().item()
            self.reach_steps += 1
        return student.detach()

    @property
    def reach(self) -> float:
        """Mean reach of the vector over the last steps (`objective.relative_reach`); NaN where it was not measured."""
        return self.reach_sum / self.reach_steps if self.reach_steps else math.nan

    @property
    def scale(self) -> float:
        """What the finished vector is multiplied by."""
        return 1 / self.reach if self.settings.calibrate and self.finished and self.reach > 1 else 1.0

    def reconstruct(self, x, sigma, pairs: list[int], x0: torch.Tensor) -> torch.Tensor:
        """One step of the paper's objective: the error against the noise that was really added; returns the student."""
        with torch.enable_grad():
            student = self.denoise([cond.rows(self.conds["base"], pairs)], x, sigma, steered=True)[0]
            scale = prediction_scale(self.model.model_sampling, sigma)
            self.descend(mean_square((student - x0) * scale))
        return student.detach()

    def descend(self, errors: torch.Tensor) -> None:
        """One optimiser step on the errors `[B]` of a batch.

        The sum, not the mean, goes backward: Adam does not mind, and fp16 gradients do not underflow.
        """
        self.evaluations += errors.shape[0]
        self.optimizer.param_groups[0]["lr"] = self._learning_rate()
        self.optimizer.zero_grad()
        errors.sum().backward()
        loss = errors.detach().mean().item()
        if math.isfinite(loss) and torch.isfinite(self.vector.grad).all():
            self.optimizer.step()
        else:
            raise FloatingPointError(
                f"Discovery stopped at step {self.step + 1}: the loss is not a number. Lower learning_rate or guidance, "
                "or run the model in bf16 or fp32."
            )
        self.losses.append(loss)

    def _learning_rate(self) -> float:
        if not self.distilled:
            return self.settings.learning_rate
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        return self.settings.learning_rate * self.rms * max(decay, 0.01)

    def report(self, preview=None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.listener:
            if self.comparison:
                preview = self.comparison()
            self.listener(Progress(self.step, self.settings.steps, self.losses[-1], preview))

    def state(self) -> dict[str, torch.Tensor]:
        """What continues this run bit for bit: Adam's moments, the step, and the size of h that rates refer to."""
        state = self.optimizer.state.get(self.vector, {})
        return {
            "step": torch.tensor(float(self.step)),
            "rms": torch.tensor(self.rms),
            "reach": torch.tensor([self.reach_sum, self.reach_steps]),
            **{key: state[key] for key in ADAM_STATE if key in state},
        }

    def resume(self, extra: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state()` of an interrupted run; a finished vector has none and starts a run of its own."""
        if not extra:
            return
        if not {"step", "rms", *ADAM_STATE} <= set(extra) or any(
            extra[key].shape != self.vector.shape for key in ADAM_STATE
        ):
            raise ValueError("start_from: the saved optimiser state does not fit its vector; the file is damaged.")
        step = extra["step"].flatten()[:1]
        self.first_step = min(int(step), self.settings.steps - 1)
        self.rms = extra["rms"].flatten()[0].item()
        if "reach" in extra and extra["reach"].numel() == 2:
            self.reach_sum, self.reach_steps = extra["reach"].flatten().double().tolist()
        self.optimizer.state[self.vector] = {
            "step": step[0].clone(),
            **{key: extra[key].to(self.vector) for key in ADAM_STATE},
        }
