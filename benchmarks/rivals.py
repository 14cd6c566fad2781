"""Other ways to learn: RespoDiff's concept module, a Concept Slider, second-order steps, averaged steps, early stopping.

The first two are what a user would pick instead of discovery. They learn on states of a sampling run that is made anew
for each step, which is what they pay for. All but the last are written as what discovery calls
`learn(learner, sigmas, noise)`, so that ComfyUI prepares model and prompts for them too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import comfy.k_diffusion.sampling
import comfy.samplers
import torch
from comfy.weight_adapter import LoRAAdapter

from ..hspace import conditioning as cond
from ..hspace.learner import REACH_FROM, Learner
from ..hspace.objective import mean_square, prediction_scale, relative_error
from ..hspace.states import ROLL_OUT_CFG, SAMPLING_STEPS, generator_for, pairs_of_batch, roll_out

RIVAL_SETTINGS = {"steps": 125, "guidance": 4.0, "batch_size": 8, "calibrate": False}
SLIDER_RANK, SLIDER_RATE = 4, 1e-3
KEEP_EVERY = 5


def learn_respodiff(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """RespoDiff's concept module (NeurIPS 2025): a roll-out under the base prompt, steered by the vector so far, and one
    step towards the teacher of guidance 4 at the state where it stops."""
    while not learner.finished:
        pairs = pairs_of_batch(learner, noise.shape[0], learner.step)
        x, sigma = _roll_out(learner, noise, pairs, steered=True)
        learner.report(learner.teach(x, sigma, pairs))
    return x


def learn_slider(
    found: dict[str, tuple[torch.Tensor, torch.Tensor]], learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """A Concept Slider (Gandikota et al., ECCV 2024): a LoRA of rank 4 on the attention layers.

    Its loss is the distance to `base + g (concept - base)` on states of a run with the LoRA. `found` is filled with (up,
    down) by layer.
    """
    lora = _Lora(learner.model.diffusion_model, learner.settings.seed)
    learner.optimizer = torch.optim.AdamW(lora.parameters(), lr=SLIDER_RATE)
    while not learner.finished:
        pairs = pairs_of_batch(learner, noise.shape[0], learner.step)
        with lora:
            x, sigma = _roll_out(learner, noise, pairs, steered=False)
        branches = learner.branches(pairs)
        with torch.no_grad():
            seen = dict(zip(branches, learner.denoise(list(branches.values()), x, sigma), strict=True))
        target = learner.target(seen)
        with torch.enable_grad(), lora:
            # steered: with attention that has a backward; the vector itself stays zero
            student = learner.denoise([branches["base"]], x, sigma, steered=True)[0]
            scale = prediction_scale(learner.model.model_sampling, sigma)
            errors = mean_square((student - target) * scale)
            learner.evaluations += errors.shape[0]
            learner.optimizer.zero_grad()
            errors.mean().backward()
            learner.optimizer.step()
        learner.losses.append(errors.detach().mean().item())
        learner.rms = 1.0
        learner.report(student.detach())
    found.update(lora.pairs())
    return x


@dataclass
class _State:
    """A batch of a sampling run, and all that a step needs to know of the frozen model there."""

    x: torch.Tensor
    sigma: torch.Tensor
    prompts: list[dict]
    base: torch.Tensor
    target: torch.Tensor
    scale: torch.Tensor


def _unsteered_states(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor, number: int) -> list[_State]:
    """Every second state of unsteered run `number`."""
    roles = learner.branches(pairs_of_batch(learner, noise.shape[0], number))
    visited = []

    def denoiser(x, sigma, **_):
        base, empty = learner.denoise([roles["base"], learner.conds["unconditional"]], x, sigma)
        visited.append((x, sigma, base))
        return empty + ROLL_OUT_CFG * (base - empty)

    sampling = learner.model.model_sampling
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    kept = []
    with torch.no_grad():
        comfy.k_diffusion.sampling.sample_euler(denoiser, x, sigmas, disable=True)
        for x, sigma, base in visited[::2]:
            others = {role: learner.denoise([roles[role]], x, sigma)[0] for role in roles if role != "base"}
            target = learner.target({"base": base, **others})
            kept.append(_State(x, sigma, roles["base"], base, target, prediction_scale(sampling, sigma)))
    return kept


def learn_on_kept_states(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Steps on the states of two unsteered runs, over and over, in a drawn order: cheap, but not where the vector leads."""
    kept = []
    for number in range(2):
        start = torch.randn(noise.shape, generator=generator_for(learner.settings.seed, 6, number)).to(noise)
        kept += _unsteered_states(learner, sigmas, start, number)
    while not learner.finished:
        order = torch.randperm(len(kept), generator=generator_for(learner.settings.seed, 7, learner.step))
        for place in order.tolist():
            if learner.finished:
                break
            state = kept[place]
            learner.report(learner.follow(state.target, state.x, state.sigma, state.prompts, state.base))
    return noise


def learn_and_keep_best(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Discovery as it is, but what is kept of its second half is the vector with the lowest loss on a fixed set of states."""
    fixed = _unsteered_states(learner, sigmas, noise, 0)[::4]
    report, best, lowest = learner.listener, learner.vector.detach().clone(), float("inf")

    def check(progress) -> None:
        nonlocal lowest
        if report:
            report(progress)
        if progress.step * 2 < progress.steps or progress.step % KEEP_EVERY:
            return
        with torch.no_grad():
            students = [learner.denoise([state.prompts], state.x, state.sigma, steered=True)[0] for state in fixed]
        errors = [
            relative_error(student, state.target, state.base, state.scale).mean().item()
            for student, state in zip(students, fixed, strict=True)
        ]
        if sum(errors) < lowest:
            lowest = sum(errors)
            best.copy_(learner.vector.detach())

    learner.listener = check
    drawn = roll_out(learner, sigmas, noise)
    with torch.no_grad():
        learner.vector.copy_(best)
    return drawn


def learn_second_order(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """L-BFGS on a fixed set, each sample relative, as discovery weighs them."""
    evaluations = learner.settings.steps * noise.shape[0] * 5  # what first-order steps would have cost
    fixed = _unsteered_states(learner, sigmas, noise, 0)
    optimizer = torch.optim.LBFGS([learner.vector], max_iter=10**6, max_eval=10**6, history_size=20,
                                  line_search_fn="strong_wolfe")  # fmt: skip
    best = learner.vector.detach().clone()

    def closure() -> torch.Tensor:
        if learner.evaluations + 2 * noise.shape[0] * len(fixed) > evaluations:
            raise _BudgetSpentError
        optimizer.zero_grad()
        total = 0.0
        for state in fixed:
            student = learner.denoise([state.prompts], state.x, state.sigma, steered=True)[0]
            errors = relative_error(student, state.target, state.base, state.scale)
            learner.evaluations += len(errors)
            errors.sum().backward()
            total += errors.sum().item()
        learner.losses.append(total / (len(fixed) * noise.shape[0]))
        if learner.losses[-1] == min(learner.losses):
            best.copy_(learner.vector.detach())
        return torch.tensor(total)

    with torch.enable_grad(), contextlib.suppress(_BudgetSpentError):
        optimizer.step(closure)
    with torch.no_grad():
        learner.vector.copy_(best)
    learner.losses += [min(learner.losses)] * (learner.settings.steps - len(learner.losses))
    return noise


class _BudgetSpentError(Exception):
    pass


class AveragingLearner(Learner):
    """Ends with the mean of the vectors of its last quarter."""

    def report(self, preview=None) -> None:
        if self.step > REACH_FROM * self.settings.steps:
            self.average = getattr(self, "average", 0.0) + self.vector.detach()
        if self.finished:
            with torch.no_grad():
                self.vector.copy_(self.average / self.reach_steps)
        super().report(preview)


def with_slider(model, found: dict[str, torch.Tensor], strength: float):
    """A clone of `model` with the slider as the LoRA that it is."""
    model = model.clone()
    patches = {
        f"diffusion_model.{name}.weight": LoRAAdapter(set(), (up, down, None, None, None, None))
        for name, (up, down) in found.items()
    }
    if len(model.add_patches(patches, strength)) != len(patches):
        raise RuntimeError("the slider does not fit the model")
    return model


def _roll_out(
    learner: Learner, noise: torch.Tensor, pairs: list[int], steered: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A state of a sampling run under the base prompts with CFG, and its sigma `[B]`, at a step drawn at random."""
    sampling = learner.model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", SAMPLING_STEPS).to(noise)
    generator = generator_for(learner.settings.seed, 5, learner.step)
    stop = int(torch.randint(SAMPLING_STEPS, (1,), generator=generator))
    base = cond.rows(learner.conds["base"], pairs)

    def denoiser(x, sigma, **_):
        text, empty = learner.denoise([base, learner.conds["unconditional"]], x, sigma, steered=steered)
        return empty + ROLL_OUT_CFG * (text - empty)

    start = torch.randn(noise.shape, generator=generator).to(noise)
    x = sampling.noise_scaling(sigmas[0], start, torch.zeros_like(start), True)
    with torch.no_grad():
        if stop:
            x = comfy.k_diffusion.sampling.sample_euler(denoiser, x, sigmas[: stop + 1], disable=True)
    return x, sigmas[stop].expand(noise.shape[0])


class _Lora:
    """Low-rank additions to the linear layers of all attention blocks, added while the block `with lora` runs."""

    def __init__(self, unet: torch.nn.Module, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.modules = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, torch.nn.Linear) and (".attn1." in name or ".attn2." in name)
        }
        for name, module in self.modules.items():
            wide, narrow = module.weight.shape
            down = torch.randn(SLIDER_RANK, narrow, generator=generator) / SLIDER_RANK
            up = torch.zeros(wide, SLIDER_RANK)
            self.weights[name] = up.requires_grad_(True), down.requires_grad_(True)
        self.handles: list = []

    def parameters(self) -> list[torch.Tensor]:
        return [weight for pair in self.weights.values() for weight in pair]

    def pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {name: (up.detach(), down.detach()) for name, (up, down) in self.weights.items()}

    def __enter__(self):
        for name, module in self.modules.items():
            up, down = self.weights[name]
            self.handles.append(
                module.register_forward_hook(lambda module, args, out, up=up, down=down: out + args[0] @ down.T @ up.T)
            )
        return self

    def __exit__(self, *error):
        while self.handles:
            self.handles.pop().remove()
