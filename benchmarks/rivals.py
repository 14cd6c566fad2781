"""What a user would pick instead of discovery: RespoDiff's concept module, and a Concept Slider.

They learn on states of a sampling run that is made anew
for each step, which is what they pay for. Both are `Recipe.states`, so ComfyUI prepares model and prompts for them too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import comfy.k_diffusion.sampling
import torch
from comfy.weight_adapter import LoRAAdapter

from hspace.discovery import DISTILLED
from hspace.discovery.distilled import ROLL_OUT_CFG, teach
from hspace.discovery.objective import prediction_scale, squared_error
from hspace.discovery.run import Run
from hspace.discovery.streams import generator

from .common import Bench, Steer, Stream, Task

RIVAL_SETTINGS = {"steps": 125, "guidance": 4.0, "batch_size": 8, "calibrate": False, "response_rank": 0}
SLIDER_RANK, SLIDER_RATE = 4, 1e-3
STEPS_OF_A_RUN = 20

Samples = list[torch.Tensor] | None


def respodiff(run: Run, samples: Samples) -> torch.Tensor:
    """RespoDiff's concept module (NeurIPS 2025).

    A roll-out under the base prompt, steered by the vector so far, and one step towards the teacher of guidance 4 at
    the state at which it stops.
    """
    while not run.finished:
        pairs = run.pairs(run.optimiser.step)
        x, sigma = _state_of_run(run, pairs, run.optimiser.addition.scaled(1.0))
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
    optimiser, nothing = torch.optim.AdamW(slider.parameters(), lr=SLIDER_RATE), run.optimiser.addition.scaled(1.0)
    while not run.finished:
        pairs = run.pairs(run.optimiser.step)
        with slider.on_the_model():
            x, sigma = _state_of_run(run, pairs, None)
        prompts, scale = run.model.prompts.of_images(pairs), prediction_scale(run.model.sampling, sigma)
        with torch.no_grad():
            by_role = dict(zip(prompts, run.model.predict(list(prompts.values()), x, sigma), strict=True))
        target = run.recipe.target(by_role, run.settings.guidance)
        with torch.enable_grad(), slider.on_the_model():
            # The vector of zeros makes the model use attention that has a backward pass.
            (student,) = run.model.predict([prompts["base"]], x, sigma, add=nothing)
            errors = run.recipe.error(student, target, by_role["base"], scale)
            run.model.evaluations += len(errors)
            optimiser.zero_grad()
            errors.mean().backward()
            optimiser.step()
        run.optimiser.losses.append(errors.detach().mean().item())
        run.report(student.detach())
    return x


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
