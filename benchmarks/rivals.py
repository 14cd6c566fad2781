"""Other loops of a discovery: RespoDiff's concept module, a Concept Slider, L-BFGS, averaging, early stopping.

The first two are what a user would pick instead of discovery. They learn on states of a sampling run that is made anew
for each step, which is what they pay for. All are `Recipe.states`, so ComfyUI prepares model and prompts for them too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import comfy.k_diffusion.sampling
import torch
from comfy.weight_adapter import LoRAAdapter

from hspace.discovery import DISTILLED, Observer, Progress
from hspace.discovery.distilled import ROLL_OUT_CFG, approach, learn, roll_out_sigmas, teach
from hspace.discovery.objective import prediction_scale, squared_error
from hspace.discovery.optimiser import REACH_FROM
from hspace.discovery.run import Run
from hspace.discovery.streams import generator

from .common import Bench, Steer, Stream, Task

RIVAL_SETTINGS = {"steps": 125, "guidance": 4.0, "batch_size": 8, "calibrate": False}
SLIDER_RANK, SLIDER_RATE = 4, 1e-3
CHECK_EVERY = 5
"""Steps from one comparison of vectors to the next in `keep_best`."""
STEPS_OF_A_RUN = 20

Samples = list[torch.Tensor] | None


def respodiff(run: Run, samples: Samples) -> torch.Tensor:
    """RespoDiff's concept module (NeurIPS 2025).

    A roll-out under the base prompt, steered by the vector so far, and one step towards the teacher of guidance 4 at
    the state at which it stops.
    """
    while not run.finished:
        pairs = run.pairs(run.optimiser.step)
        x, sigma = _state_of_run(run, pairs, run.optimiser.snapshot())
        run.report(teach(run, x, sigma, pairs))
    return x


class Slider:
    """A Concept Slider (Gandikota et al., ECCV 2024): a LoRA of rank 4 on the attention layers.

    It is trained as ComfyUI trains LoRAs, by functions on the weights.
    """

    def __init__(self, unet: torch.nn.Module, seed: int):
        random = generator(seed, Stream.SLIDER_START)
        self.layers = {
            name: layer
            for name, layer in unet.named_modules()
            if isinstance(layer, torch.nn.Linear) and (".attn1." in name or ".attn2." in name)
        }
        self.adapters = {}
        for name, layer in self.layers.items():
            wide, narrow = layer.weight.shape
            # The authors' start: nothing is added. That of `LoRAAdapter.create_train` adds nothing either, but it is
            # the down projection that it leaves at zero.
            up, down = torch.zeros(wide, SLIDER_RANK), torch.randn(SLIDER_RANK, narrow, generator=random) / SLIDER_RANK
            self.adapters[name] = LoRAAdapter(set(), (up, down, float(SLIDER_RANK), None, None, None)).to_train()
            self.adapters[name].to(layer.weight.device)

    def parameters(self) -> list[torch.Tensor]:
        """The tensors that are learnt."""
        return [p for adapter in self.adapters.values() for p in adapter.parameters() if p.requires_grad]

    @contextlib.contextmanager
    def on_the_model(self) -> Iterator[None]:
        """For the time of the block, the layers compute with their adapters."""
        before = {name: layer.weight_function for name, layer in self.layers.items()}
        try:
            for name, layer in self.layers.items():
                layer.weight_function = [*before[name], self.adapters[name]]
            yield
        finally:
            for name, layer in self.layers.items():
                layer.weight_function = before[name]

    def apply(self, model, strength: float):
        """A clone of a ModelPatcher with the slider as the LoRA that it is."""
        model = model.clone()
        patches = {
            f"diffusion_model.{name}.weight": LoRAAdapter(
                set(), (adapter.lora_up.weight.detach(), adapter.lora_down.weight.detach(), None, None, None, None)
            )
            for name, adapter in self.adapters.items()
        }
        if len(model.add_patches(patches, strength)) != len(patches):
            raise RuntimeError("the slider does not fit the model")
        return model


def discover_slider(bench: Bench, task: Task, seed: int) -> tuple[Steer, int]:
    """A Concept Slider, and the evaluations that it cost."""
    sliders: list[Slider] = []

    def states(run: Run, samples: Samples) -> torch.Tensor:
        sliders.append(Slider(run.model.model.diffusion_model, run.settings.seed))
        return _learn_slider(run, sliders[0])

    recipe = replace(DISTILLED, states=states, error=squared_error)
    discovery, _ = bench.discover(task, recipe=recipe, seed=seed, **RIVAL_SETTINGS)
    return sliders[0].apply, discovery.evaluations


def _learn_slider(run: Run, slider: Slider) -> torch.Tensor:
    """Steps towards `base + g (concept - base)` on states of runs with the LoRA; the vector stays zero."""
    optimiser, nothing = torch.optim.AdamW(slider.parameters(), lr=SLIDER_RATE), run.optimiser.snapshot()
    while not run.finished:
        pairs = run.pairs(run.optimiser.step)
        with slider.on_the_model():
            x, sigma = _state_of_run(run, pairs, None)
        state = _state(run, x, sigma, pairs)
        with torch.enable_grad(), slider.on_the_model():
            # The vector of zeros makes the model use attention that has a backward pass.
            (student,) = run.model.predict([state.prompts], x, sigma, add=nothing)
            errors = run.recipe.error(student, state.target, state.base, state.scale)
            run.model.evaluations += len(errors)
            optimiser.zero_grad()
            errors.mean().backward()
            optimiser.step()
        run.optimiser.losses.append(errors.detach().mean().item())
        run.report(student.detach())
    return x


@dataclass(frozen=True)
class State:
    """A batch of a sampling run, and all that a step needs to know of the frozen model there.

    Attributes:
        prompts: the base prompts.
        base: prediction under them.
        target: what the steered model should predict.
    """

    x: torch.Tensor
    sigma: torch.Tensor
    prompts: list[dict]
    base: torch.Tensor
    target: torch.Tensor
    scale: torch.Tensor

    def errors(self, run: Run) -> torch.Tensor:
        """Errors `[B]` of the vector so far."""
        (student,) = run.model.predict([self.prompts], self.x, self.sigma, add=run.optimiser.addition)
        return run.recipe.error(student, self.target, self.base, self.scale)


@torch.no_grad()
def _state(run: Run, x: torch.Tensor, sigma: torch.Tensor, pairs: list[int], base: torch.Tensor | None = None) -> State:
    """The teacher asked at `x`, but for the prediction under the base prompts if that is known."""
    prompts = run.model.prompts.of_images(pairs)
    unknown = {role: cond for role, cond in prompts.items() if base is None or role != "base"}
    predictions = dict(zip(unknown, run.model.predict(list(unknown.values()), x, sigma), strict=True))
    predictions.setdefault("base", base)
    target = run.recipe.target(predictions, run.settings.guidance)
    return State(x, sigma, prompts["base"], predictions["base"], target, prediction_scale(run.model.sampling, sigma))


def _unsteered_states(run: Run, number: int) -> list[State]:
    """Every second state of unsteered run `number`."""
    pairs = run.pairs(number)
    prompts, visited = run.model.prompts.prompts_of("base", pairs), []

    def denoiser(x, sigma, **_):
        (base,) = run.model.predict([prompts], x, sigma)
        visited.append((x, sigma, base))
        return run.model.guide(base, x, sigma, ROLL_OUT_CFG)

    noise = torch.randn(run.shape, generator=generator(run.settings.seed, Stream.UNSTEERED_RUNS, number))
    _sample(run, denoiser, noise, roll_out_sigmas(run))
    return [_state(run, x, sigma, pairs, base) for x, sigma, base in visited[::2]]


def _state_of_run(run: Run, pairs: list[int], add: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A state of a sampling run under the base prompts with CFG, and its sigma `[B]`, after a random number of steps.

    Args:
        add: added to h in both halves of CFG.
    """
    random = generator(run.settings.seed, Stream.STATE_OF_RUN, run.optimiser.step)
    sigmas = run.model.sigmas(STEPS_OF_A_RUN)
    stop = int(torch.randint(STEPS_OF_A_RUN, (1,), generator=random))
    prompts = [run.model.prompts.prompts_of("base", pairs), run.model.prompts.empty]

    def denoiser(x, sigma, **_):
        text, empty = run.model.predict(prompts, x, sigma, add)
        return empty + ROLL_OUT_CFG * (text - empty)

    x = _sample(run, denoiser, torch.randn(run.shape, generator=random), sigmas[: stop + 1])
    return x, sigmas[stop].to(x).expand(len(x))


def _sample(run: Run, denoiser, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """The state `[B, C, h, w]` that Euler's method reaches at the last sigma; the noise itself if there is only one."""
    sigmas = sigmas.to(run.device)
    x = run.model.pure_noise(noise.to(run.device), sigmas[0])
    return comfy.k_diffusion.sampling.sample_euler(denoiser, x, sigmas, disable=True) if len(sigmas) > 1 else x


def reuse_states(run: Run, samples: Samples) -> torch.Tensor:
    """Steps on the states of two unsteered runs, over and over, in a random order.

    Cheap, but these are not the states that the vector leads to.
    """
    states = [state for number in range(2) for state in _unsteered_states(run, number)]
    while not run.finished:
        random = generator(run.settings.seed, Stream.ORDER_OF_STATES, run.optimiser.step)
        for place in torch.randperm(len(states), generator=random).tolist():
            if run.finished:
                break
            state = states[place]

            def approached(part: slice, state=state) -> torch.Tensor:
                return approach(run, state.target, state.x, state.sigma, state.prompts, state.base)

            run.report(run.step(approached, len(state.x)))
    return states[-1].x


class _Watching(Observer):
    """Passes all on to the run's own observer, which it stands in front of."""

    def __init__(self, run: Run):
        self.run, self.next = run, run.observer

    def step(self, progress: Progress) -> None:
        self.watch(progress)
        self.next.step(progress)

    def watch(self, progress: Progress) -> None:
        raise NotImplementedError


class _Best(_Watching):
    """Of the second half of a run, the vector with the lowest loss on a fixed set of states."""

    def __init__(self, run: Run):
        super().__init__(run)
        self.states = _unsteered_states(run, 0)[::4]
        self.tensors, self.lowest = run.optimiser.snapshot(), float("inf")

    def watch(self, progress: Progress) -> None:
        if progress.step * 2 < progress.steps or progress.step % CHECK_EVERY:
            return
        with torch.no_grad():
            loss = sum(state.errors(self.run).mean().item() for state in self.states)
        if loss < self.lowest:
            self.lowest = loss
            self.tensors = self.run.optimiser.snapshot()


def keep_best(run: Run, samples: Samples) -> torch.Tensor:
    """Discovery as it is, but it ends with the vector of `_Best`."""
    best = _Best(run)
    images = learn(replace(run, observer=best), samples)
    run.optimiser.restore(best.tensors)
    return images


class _Mean(_Watching):
    """The sum of the vectors of a run's last quarter, and their number."""

    def __init__(self, run: Run):
        super().__init__(run)
        self.totals, self.count = dict.fromkeys(run.optimiser.tensors, 0.0), 0

    def watch(self, progress: Progress) -> None:
        if progress.step > REACH_FROM * progress.steps:
            self.totals = {site: self.totals[site] + tensor for site, tensor in self.run.optimiser.snapshot().items()}
            self.count += 1


def average(run: Run, samples: Samples) -> torch.Tensor:
    """Discovery as it is, but it ends with the mean of the vectors of its last quarter."""
    mean = _Mean(run)
    images = learn(replace(run, observer=mean), samples)
    run.optimiser.restore({site: total / mean.count for site, total in mean.totals.items()})
    return images


def second_order(run: Run, samples: Samples) -> torch.Tensor:
    """L-BFGS on a fixed set of states, until it has cost what first-order steps would have cost."""
    optimiser, batch = run.optimiser, run.shape[0]
    affordable = run.settings.steps * batch * 5
    states = _unsteered_states(run, 0)
    lbfgs = torch.optim.LBFGS(
        list(optimiser.tensors.values()), max_iter=10**6, max_eval=10**6, history_size=20, line_search_fn="strong_wolfe"
    )
    best = optimiser.snapshot()

    def closure() -> torch.Tensor:
        if run.model.evaluations + 2 * batch * len(states) > affordable:
            raise _BudgetSpentError
        lbfgs.zero_grad()
        total = 0.0
        for state in states:
            errors = state.errors(run)
            run.model.evaluations += len(errors)
            errors.sum().backward()
            total += errors.sum().item()
        optimiser.losses.append(total / (len(states) * batch))
        if optimiser.losses[-1] == min(optimiser.losses):
            best.update(optimiser.snapshot())
        return torch.tensor(total)

    with torch.enable_grad(), contextlib.suppress(_BudgetSpentError):
        lbfgs.step(closure)
    optimiser.restore(best)
    optimiser.losses += [min(optimiser.losses)] * (run.settings.steps - len(optimiser.losses))
    return states[-1].x


class _BudgetSpentError(Exception):
    pass
