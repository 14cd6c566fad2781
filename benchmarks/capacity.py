"""Do constants say all that they could? What they can be extended by at every site, for the discovery benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from hspace.comfy_compat import DECODER
from hspace.discovery import DISTILLED
from hspace.discovery import distilled as loop
from hspace.discovery.frozen_model import FrozenModel
from hspace.discovery.run import Run

from .common import Bench, Steer, Task

Tensors = list[torch.Tensor]


class Extension:
    """Something learnt at a site beside the constant."""

    def tensors(self, shape: torch.Size) -> Tensors:
        """The tensors to start from, for a constant of shape `[C, H, W]`."""
        raise NotImplementedError

    def rate(self, rate: float, rms: float) -> float:
        """Its learning rate, from that of the constant and the root mean square of h."""
        return rate

    def __call__(self, tensors: Tensors, h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """The addition to h `[B, C, H, W]`, or to a batch of one.

        Args:
            place: `[B]`, 0 for the noisiest state and 1 for no noise.
        """
        raise NotImplementedError


class NoiseLevels(Extension):
    """A constant for each of a few places of the noise schedule, in between a mixture of the two that are nearest."""

    def __init__(self, count: int):
        self.count = count

    def tensors(self, shape: torch.Size) -> Tensors:
        return [torch.zeros(self.count, *shape)]

    def __call__(self, tensors: Tensors, h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        knot = place.clamp(0, 1) * (self.count - 1)
        weights = (1 - (knot[:, None] - torch.arange(self.count)).abs()).clamp_min(0)
        return torch.einsum("bk,kchw->bchw", weights.to(tensors[0]), tensors[0])


class Gains(Extension):
    """A factor on each channel of h.

    Args:
        relative: learning rate, as a share of that of the constant over the root mean square of h.
    """

    def __init__(self, relative: float):
        self.relative = relative

    def tensors(self, shape: torch.Size) -> Tensors:
        return [torch.zeros(shape)]

    def rate(self, rate: float, rms: float) -> float:
        return self.relative * rate / rms

    def __call__(self, tensors: Tensors, h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return tensors[0] * h.float()


@dataclass
class ExtendedModel(FrozenModel):
    """Adds an extension to h beside the constant of each site.

    Args:
        learnt: tensors of the extension, by site.
    """

    extension: Extension | None = None
    learnt: Mapping[int, Tensors] = field(default_factory=dict)

    def _patch(self, h, hsp, transformer_options):
        part, site = transformer_options["block"]
        if part == DECODER and site in self.learnt:
            place = places(self.sampling, transformer_options["sigmas"])
            h = h + self.extension(self.learnt[site], h, place).to(h.dtype)
        return super()._patch(h, hsp, transformer_options)


def places(sampling, sigmas: torch.Tensor) -> torch.Tensor:
    """Place of each sigma in the noise schedule, float32: 0 for the noisiest, 1 for no noise."""
    return 1 - sampling.timestep(sigmas.cpu()).float() / 999


def discover_extended(bench: Bench, task: Task, seed: int, *, extension: Extension) -> tuple[Steer, int]:
    """Constants with their extension, and the evaluations that they cost."""
    learnt: dict[int, Tensors] = {}

    def states(run: Run, samples: list[torch.Tensor] | None) -> torch.Tensor:
        adam, constants = run.optimiser.adam, run.optimiser.tensors
        for site, tensor in constants.items():
            learnt[site] = [t.to(run.device).requires_grad_() for t in extension.tensors(tensor.shape)]
            adam.add_param_group({"params": learnt[site]})

        def set_rates(adam, args, kwargs) -> None:
            groups = adam.param_groups
            for site, own, beside in zip(constants, groups, groups[len(constants) :], strict=False):
                beside["lr"] = extension.rate(own["lr"], run.optimiser.rms[site])

        adam.register_step_pre_hook(set_rates)
        model = run.model
        run.model = ExtendedModel(model.model, model.prompts, model.options, model.evaluations, extension, learnt)
        return loop.learn(run, samples)

    discovery, _ = bench.discover(task, seed=seed, recipe=replace(DISTILLED, states=states), response_rank=0)
    scale = discovery.vector.provenance.scale or 1.0
    found = {site: [tensor.detach().clone() for tensor in tensors] for site, tensors in learnt.items()}
    return partial(_steer, discovery.vector.tensors, found, extension, scale), discovery.evaluations


def _steer(
    constants: Mapping[int, torch.Tensor],
    learnt: Mapping[int, Tensors],
    extension: Extension,
    scale: float,
    model,
    strength: float,
):
    """A clone of `model` whose positive half gets the constants and what extends them."""
    sampling = model.get_model_object("model_sampling")

    def add(h, hsp, transformer_options):
        part, site = transformer_options["block"]
        if part != DECODER or site not in constants:
            return h, hsp
        indices = transformer_options["cond_or_uncond"]
        place = places(sampling, transformer_options["sigmas"][:1])

        def steered(chunk: torch.Tensor) -> torch.Tensor:
            total = constants[site] + scale * extension(learnt[site], chunk, place)
            return chunk + (strength * total).to(h.dtype)

        chunks = h.chunk(len(indices))
        return torch.cat([steered(c) if i == 0 else c for i, c in zip(indices, chunks, strict=True)]), hsp

    patched = model.clone()
    patched.set_model_output_block_patch(add)
    return patched
