"""Does a constant vector say all that it could? What it can be extended by, for the discovery benchmark."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from hspace.comfy_compat import DECODER
from hspace.discovery import DISTILLED
from hspace.discovery import distilled as loop
from hspace.discovery.frozen_model import FrozenModel
from hspace.discovery.run import Run
from hspace.discovery.streams import generator

from .common import Bench, Steer, Stream, Task

ENTRANCE = (DECODER, 0)
"""`transformer_options["block"]` at the bottleneck."""


class Extension:
    """Something learnt beside the constant vector.

    Attributes:
        block: `transformer_options["block"]` of the output-block patch that adds it.
    """

    block = ENTRANCE

    def tensors(self, shape: torch.Size) -> list[torch.Tensor]:
        """The tensors to start from, for a vector of shape `[C, H, W]`."""
        raise NotImplementedError

    def rate(self, rate: float, rms: float) -> float:
        """Its learning rate, from that of the vector and the root mean square of h."""
        return rate

    def __call__(self, tensors: list[torch.Tensor], h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """The addition to h `[B, C, H, W]`, or to a batch of one.

        Args:
            place: `[B]`, 0 for the noisiest state and 1 for no noise.
        """
        raise NotImplementedError


class NoiseLevels(Extension):
    """A vector for each of a few places of the noise schedule, in between a mixture of the two that are nearest."""

    def __init__(self, count: int):
        self.count = count

    def tensors(self, shape: torch.Size) -> list[torch.Tensor]:
        return [torch.zeros(self.count, *shape)]

    def __call__(self, tensors: list[torch.Tensor], h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        knot = place.clamp(0, 1) * (self.count - 1)
        weights = (1 - (knot[:, None] - torch.arange(self.count)).abs()).clamp_min(0)
        return torch.einsum("bk,kchw->bchw", weights.to(tensors[0]), tensors[0])


class LowRank(Extension):
    """A map of h itself: what is added depends on what is there."""

    def __init__(self, rank: int):
        self.rank = rank

    def tensors(self, shape: torch.Size) -> list[torch.Tensor]:
        down = torch.randn(self.rank, shape[0], generator=generator(0, Stream.LOW_RANK_START)) / shape[0] ** 0.5
        return [torch.zeros(shape[0], self.rank), down]

    def rate(self, rate: float, rms: float) -> float:
        return 0.1 * rate / rms  # these multiply h

    def __call__(self, tensors: list[torch.Tensor], h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        up, down = tensors
        return torch.einsum("cr,rd,bdhw->bchw", up, down, h.float())


class SecondSite(Extension):
    """Another constant vector further on in the decoder."""

    def __init__(self, block: tuple[str, int], shape: tuple[int, int, int]):
        self.block, self.shape = block, shape

    def tensors(self, shape: torch.Size) -> list[torch.Tensor]:
        return [torch.zeros(self.shape)]

    def __call__(self, tensors: list[torch.Tensor], h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return tensors[0][None]


@dataclass
class ExtendedModel(FrozenModel):
    """Adds an extension to h beside the vector."""

    extension: Extension | None = None
    tensors: tuple[torch.Tensor, ...] = ()

    def _patch(self, h, hsp, transformer_options):
        if transformer_options["block"] == self.extension.block:
            place = places(self.sampling, transformer_options["sigmas"])
            h = h + self.extension(self.tensors, h, place).to(h.dtype)
        return super()._patch(h, hsp, transformer_options)


def places(sampling, sigmas: torch.Tensor) -> torch.Tensor:
    """Place of each sigma in the noise schedule, float32: 0 for the noisiest, 1 for no noise."""
    return 1 - sampling.timestep(sigmas.cpu()).float() / 999


def discover_extended(bench: Bench, task: Task, seed: int, *, extension: Extension) -> tuple[Steer, int]:
    """A vector with its extension, and the evaluations that they cost."""
    tensors: list[torch.Tensor] = []

    def states(run: Run, samples: list[torch.Tensor] | None) -> torch.Tensor:
        adam = run.optimiser.adam
        tensors.extend(t.to(run.device).requires_grad_() for t in extension.tensors(run.optimiser.tensors[0].shape))
        adam.add_param_group({"params": tensors})

        def set_rate(adam, args, kwargs) -> None:
            vector, beside = adam.param_groups
            beside["lr"] = extension.rate(vector["lr"], run.optimiser.rms[0])

        adam.register_step_pre_hook(set_rate)
        model = run.model
        run.model = ExtendedModel(
            model.model, model.prompts, model.options, model.evaluations, extension, tuple(tensors)
        )
        return loop.learn(run, samples)

    discovery, _ = bench.discover(task, seed=seed, recipe=replace(DISTILLED, states=states))
    scale = discovery.vector.provenance.scale or 1.0
    learnt = [tensor.detach().clone() for tensor in tensors]
    return partial(_steer, discovery.vector.tensor, learnt, extension, scale), discovery.evaluations


def _steer(
    vector: torch.Tensor, tensors: list[torch.Tensor], extension: Extension, scale: float, model, strength: float
):
    """A clone of `model` whose positive half gets the vector and what extends it."""
    sampling = model.get_model_object("model_sampling")

    def add(h, hsp, transformer_options):
        block = transformer_options["block"]
        if block not in (ENTRANCE, extension.block):
            return h, hsp
        indices = transformer_options["cond_or_uncond"]
        place = places(sampling, transformer_options["sigmas"][:1])

        def steered(chunk: torch.Tensor) -> torch.Tensor:
            total = torch.zeros(())
            if block == ENTRANCE:
                total = total + vector
            if block == extension.block:
                total = total + scale * extension(tensors, chunk, place)
            return chunk + (strength * total).to(h.dtype)

        chunks = h.chunk(len(indices))
        return torch.cat([steered(c) if i == 0 else c for i, c in zip(indices, chunks, strict=True)]), hsp

    patched = model.clone()
    patched.set_model_output_block_patch(add)
    return patched
