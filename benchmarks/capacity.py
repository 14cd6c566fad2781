"""Does a constant vector say all that it could? What it can be extended by, for the discovery benchmark."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import torch

from ..hspace import discovery
from ..hspace.comfy_compat import DECODER_ENTRANCE
from ..hspace.learner import ADAM_BETAS, Learner
from .common import Bench, Steer, Task


class NoiseLevels:
    """A vector for each of a few places of the noise schedule, in between a mixture of the two that are nearest."""

    def __init__(self, count: int):
        self.count = count

    def tensors(self, shape: torch.Size) -> list[torch.Tensor]:
        return [torch.zeros(self.count, *shape)]

    def rate(self, rate: float, rms: float) -> float:
        return rate

    def __call__(self, tensors: list[torch.Tensor], h: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """What is added to h `[B, C, H, W]`; `place` `[B]` is 0 for the noisiest state and 1 for none."""
        knot = place.clamp(0, 1) * (self.count - 1)
        weights = (1 - (knot[:, None] - torch.arange(self.count)).abs()).clamp_min(0)
        return torch.einsum("bk,kchw->bchw", weights.to(tensors[0]), tensors[0])


class LowRank:
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


class _ExtendedLearner(Learner):
    """Learns a constant vector and an extension of it together."""

    extension: NoiseLevels | LowRank

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
        if transformer_options["block"] == DECODER_ENTRANCE:
            place = places(self.model.model_sampling, transformer_options["sigmas"])
            h = h + self.strength * self.extension(self.tensors, h, place).to(h.dtype)
        return super()._add_vector(h, hsp, transformer_options)


def places(sampling, sigmas: torch.Tensor) -> torch.Tensor:
    """Place of each sigma in the noise schedule, float32: 0 for the noisiest, 1 for no noise."""
    return 1 - sampling.timestep(sigmas.cpu()).float() / 999


def find_extended(extension: NoiseLevels | LowRank, bench: Bench, task: Task, seed: int) -> tuple[Steer, int]:
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


def _steer(vector: torch.Tensor, tensors: list[torch.Tensor], extension, scale: float, model, strength: float):
    sampling = model.get_model_object("model_sampling")

    def add(h, hsp, transformer_options):
        if transformer_options["block"] != DECODER_ENTRANCE:
            return h, hsp
        indices = transformer_options["cond_or_uncond"]
        place = places(sampling, transformer_options["sigmas"][:1])
        chunks = [
            chunk + (strength * (vector + scale * extension(tensors, chunk, place))).to(h.dtype)
            if index == 0
            else chunk
            for index, chunk in zip(indices, h.chunk(len(indices)), strict=True)
        ]
        return torch.cat(chunks), hsp

    steered = model.clone()
    steered.set_model_output_block_patch(add)
    return steered
