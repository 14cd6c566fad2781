"""Images to learn from: sampled under the concept prompts as the authors did, or given; in batches of one size."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ..comfy_compat import carries_image
from .prompt_pairs import PromptPairs
from .settings import DiscoverySettings
from .streams import Stream, generator

if TYPE_CHECKING:
    from .run import Run

TIMESTEPS = 1000
SAMPLING_CFG = 7.5
SAMPLING_STEPS = 30
"""As in the authors' data_creation.py: their pipeline's defaults but for the number of steps."""


class SampleBatches:
    """Batches of given images, one for each step of a run: every image once an epoch, in an order of the epoch's own.

    Images of a batch have one size, and one prompt where prompts cannot share a batch, so an epoch may hold batches
    that are smaller than the others.

    Args:
        run: its settings, model and seed.
        samples: LATENT values, batches `[n, C, h, w]` of any sizes; image i belongs to pair i modulo the number of
            pairs.

    Raises:
        ValueError: images of several sizes for a model whose prompts carry an image of one size.
    """

    def __init__(self, run: Run, samples: list[torch.Tensor]):
        self.run = run
        self.groups = [
            (run.model.model.process_latent_in(latents.clone()).to(run.device, torch.float32), places)
            for latents, places in by_size(samples)
        ]
        if len(self.groups) > 1 and any(carries_image(conds) for conds in run.model.prompts.roles.values()):
            raise ValueError(
                f"samples: images of {len(self.groups)} sizes, but this model's prompts carry an image of their own "
                "(inpainting), which has one size. Connect images of one size."
            )
        count, share = run.model.prompts.count, run.model.prompts.share_a_batch
        self._alike = [
            [(group, index) for index, place in enumerate(places.tolist()) if share or place % count == pair]
            for group, (_, places) in enumerate(self.groups)
            for pair in range(1 if share else count)
        ]
        size = run.settings.batch_size
        self._batches = sum(-(-len(images) // size) for images in self._alike)
        self._epoch = lru_cache(maxsize=1)(self._shuffled)

    @property
    def first(self) -> torch.Tensor:
        """The first batch of the most frequent size, as the model sees it."""
        return self.groups[0][0][: self.run.shape[0]]

    def next(self) -> tuple[torch.Tensor, list[int], torch.Generator]:
        """Images x0 `[B, C, h, w]` for the next step, the pair of each, and the step's random generator."""
        step = self.run.optimiser.step
        batch = self._epoch(step // self._batches)[step % self._batches]
        latents, places = self.groups[batch[0][0]]
        chosen = torch.tensor([index for _, index in batch])
        pairs = (places[chosen] % self.run.model.prompts.count).tolist()
        return latents[chosen.to(latents.device)], pairs, self.run.random(Stream.NOISED_SAMPLES, step)

    def _shuffled(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The batches of an epoch, each of (group, index in it)."""
        random, size = self.run.random(Stream.EPOCHS, epoch), self.run.settings.batch_size
        batches = []
        for images in self._alike:
            order = torch.randperm(len(images), generator=random).tolist()
            batches += [[images[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]

    def sigma(self, percent: torch.Tensor) -> torch.Tensor:
        """Sigmas `[B]` of places in the noise schedule, 0 the noisiest and 1 the end."""
        sampling = self.run.model.sampling
        inside = percent.clamp(1e-6, 1 - 1e-6).tolist()
        return torch.tensor([sampling.percent_to_sigma(p) for p in inside]).to(self.groups[0][0])


def by_size(samples: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of LATENT values `[n, C, h, w]`, one a size, the most frequent first; each with its images' places, int64
    `[n]`, in the order in which all of them came."""
    groups: dict[tuple[int, ...], tuple[list[torch.Tensor], list[int]]] = {}
    place = 0
    for batch in samples:
        images, places = groups.setdefault(tuple(batch.shape[1:]), ([], []))
        images.append(batch)
        places.extend(range(place, place + batch.shape[0]))
        place += batch.shape[0]
    grouped = [(torch.cat(images), torch.tensor(places)) for images, places in groups.values()]
    return sorted(grouped, key=lambda group: -len(group[1]))


def sample_images(model, pairs: PromptPairs, settings: DiscoverySettings, shape: tuple[int, int, int]) -> torch.Tensor:
    """`sample_count` LATENT images `[n, C, h, w]` of a ModelPatcher under the concept prompts, image i under prompt i
    modulo their number; costs `n * SAMPLING_STEPS * 2` evaluations.

    As the authors sample them: by PNDM (Liu et al., ICLR 2022; `ipndm` in ComfyUI, which differs from the pipeline's in
    the first step), on every 33rd of the 1000 timesteps from 958 to 1.
    """
    sampler = comfy.samplers.sampler_object("ipndm")
    sigmas = published_sigmas(model.get_model_object("model_sampling"))
    count = len(pairs.concept)
    images: dict[int, torch.Tensor] = {}
    for pair in range(count):
        places = range(pair, settings.sample_count, count)
        negative = pairs.negative_of(pair)
        for start in range(0, len(places), settings.batch_size):
            batch = places[start : start + settings.batch_size]
            noise = torch.cat(
                [torch.randn(1, *shape, generator=generator(settings.seed, Stream.SAMPLE_IMAGES, i)) for i in batch]
            )
            latents = comfy.sample.sample_custom(
                model,
                noise,
                SAMPLING_CFG,
                sampler,
                sigmas,
                [pairs.concept[pair]],
                negative,
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=settings.seed,
            )
            images.update(zip(batch, latents.cpu(), strict=True))
            comfy.model_management.throw_exception_if_processing_interrupted()
    return torch.stack([images[i] for i in range(settings.sample_count)])


def published_sigmas(model_sampling) -> torch.Tensor:
    """The noise levels of diffusers' PNDM at `SAMPLING_STEPS`, float32 on the CPU: "leading" timesteps with an offset
    of 1, and at the end the first level of the schedule.
    """
    spacing = TIMESTEPS // SAMPLING_STEPS
    timesteps = [1 + spacing * step for step in reversed(range(SAMPLING_STEPS))] + [0]
    return torch.tensor([float(model_sampling.sigma(torch.tensor(float(t)))) for t in timesteps])
