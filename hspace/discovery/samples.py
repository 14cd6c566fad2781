"""Images to learn from: sampled under the concept prompts, or given; in batches of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ..comfy_compat import carries_image
from .prompt_pairs import PromptPairs, zeroed
from .settings import DiscoverySettings
from .streams import Stream, generator

if TYPE_CHECKING:
    from .run import Run

SAMPLING_CFG = 7.5
SAMPLING_STEPS = 20


class SampleBatches:
    """Random batches of given images, one for each step of a run.

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
        self._counts = torch.tensor([float(len(places)) for _, places in self.groups])

    @property
    def first(self) -> torch.Tensor:
        """The first batch of the most frequent size, as the model sees it."""
        return self.groups[0][0][: self.run.shape[0]]

    def next(self) -> tuple[torch.Tensor, list[int], torch.Generator]:
        """Images x0 `[B, C, h, w]` for the next step, the pair of each, and the step's random generator."""
        random = self.run.random(Stream.NOISED_SAMPLES, self.run.optimiser.step)
        group = int(torch.multinomial(self._counts, 1, generator=random)) if len(self.groups) > 1 else 0
        latents, places = self.groups[group]
        chosen = torch.randint(latents.shape[0], (self.run.settings.batch_size,), generator=random)
        pairs = places % self.run.model.prompts.count
        if not self.run.model.prompts.share_a_batch:
            alike = (pairs == pairs[chosen[0]]).nonzero().flatten()
            chosen = alike[chosen % len(alike)]
        return latents[chosen.to(latents.device)], pairs[chosen].tolist(), random

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
    """
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", SAMPLING_STEPS)
    count = len(pairs.concept)
    images: dict[int, torch.Tensor] = {}
    for pair in range(count):
        places = range(pair, settings.sample_count, count)
        negative = zeroed(pairs.concept) if pairs.avoid is None else [pairs.avoid[pair % len(pairs.avoid)]]
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
