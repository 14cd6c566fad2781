"""Does a constant vector say all that it could? What it can be extended by, for the discovery benchmark."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import torch

from ..hspace import discovery
from ..hspace.comfy_compat import DECODER_ENTRANCE
from ..hspace.learner import ADAM_BETAS, Learner
from .common import Bench, Steer, Task


class Extension:
    """What is learnt beside the constant vector.

    Attributes:
        block: where it is added, `transformer_options["block"]` of an output-block patch.
    """

    block = DECODER_ENTRANCE

    def tensors(self, shape: torch.Size) -> list[torch.Tensor]:
        """What to start from, for a vector of shape `[C, H, W]`."""
        raise NotImplementedError

    def rate(self, rate: float, rms: float) -> float:
        """Its learning rate, from that of the vector and the root mean square of h."""
        return rate

    def __call__(self, tensors: list[torch.Tensor], h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """What is added to h `[B, C, H, W]`, or to a batch of one; `place` `[B]` is 0 for the noisiest state and 1 for none."""
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
        down = torch.randn(self.rank, shape[0], generator=torch.Generator().manual_seed(0)) / shape[0] ** 0.5
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


class _ExtendedLearner(Learner):
    """Learns a constant vector and an extension of it together."""

    extension: Extension

    def __post_init__(self):
        super().__post_init__()
        self.tensors = [
            t.to(self.vector.device).requires_grad_(True) for t in self.extension.tensors(self.vector.shape)
        ]
        self.optimizer.add_param_group({"params": self.tensors, "betas": ADAM_BETAS})

    def descend(self, errors: torch.Tensor) -> None:
        self.optimizer.param_groups[1]["lr"] = self.extension.rate(self._learning_rate(), self.rms)
        super().descend(errors)

    def _add_vector(self, h, hsp, transformer_options):
        if transformer_options["block"] == self.extension.block:
            place = places(self.model.model_sampling, transformer_options["sigmas"])
            h = h + self.strength * self.extension(self.tensors, h, place).to(h.dtype)
        return super()._add_vector(h, hsp, transformer_options)


def places(sampling, sigmas: torch.Tensor) -> torch.Tensor:
    """Place of each sigma in the noise schedule, float32: 0 for the noisiest, 1 for no noise."""
    return 1 - sampling.timestep(sigmas.cpu()).float() / 999


def find_extended(extension: Extension, bench: Bench, task: Task, seed: int) -> tuple[Steer, int]:
    """A vector with its extension, and what it cost."""
    learners: list[_ExtendedLearner] = []

    class Here(_ExtendedLearner):
        def __post_init__(self):
            self.extension = extension
            super().__post_init__()
            learners.append(self)

    with patch.object(discovery, "Learner", Here):
        found, _ = bench.discover(task, seed=seed)
    (learner,) = learners
    tensors = [tensor.detach().clone() for tensor in learner.tensors]
    return partial(_steer, found.direction.tensor, tensors, extension, learner.scale), found.evaluations


def _steer(
    vector: torch.Tensor, tensors: list[torch.Tensor], extension: Extension, scale: float, model, strength: float
):
    sampling = model.get_model_object("model_sampling")

    def add(h, hsp, transformer_options):
        block = transformer_options["block"]
        if block not in (DECODER_ENTRANCE, extension.block):
            return h, hsp
        indices = transformer_options["cond_or_uncond"]
        place = places(sampling, transformer_options["sigmas"][:1])

        def steered(chunk: torch.Tensor) -> torch.Tensor:
            added = torch.zeros(())
            if block == DECODER_ENTRANCE:
                added = added + vector
            if block == extension.block:
                added = added + scale * extension(tensors, chunk, place)
            return chunk + (strength * added).to(h.dtype)

        chunks = h.chunk(len(indices))
        return torch.cat([steered(c) if i == 0 else c for i, c in zip(indices, chunks, strict=True)]), hsp

    patched = model.clone()
    patched.set_model_output_block_patch(add)
    return patched
