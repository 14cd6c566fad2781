"""Where the x_t that a vector is learnt on come from: steered sampling runs, or images that are noised."""

from __future__ import annotations

from functools import partial

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from . import conditioning as cond
from .learner import Learner
from .settings import DiscoverySettings

ROLL_OUT_CFG = 4.0
STATES_PER_ROLL_OUT = (8, 50)
LEARN_UNTIL = 0.98
"""Share of the noise schedule; at its very end there is no noise left to predict."""
SAMPLING_CFG = 7.5
SAMPLING_STEPS = 20


def roll_out_sigmas(model_sampling, settings: DiscoverySettings) -> torch.Tensor:
    """The states of one roll-out: a sampling schedule without its end.

    Its density makes `sample_count` images, `batch_size` at a time, take `steps` optimiser steps in all.
    """
    runs = max(1, round(settings.sample_count / settings.batch_size))
    least, most = STATES_PER_ROLL_OUT
    states = min(max(round(settings.steps / runs), least), most)
    whole = comfy.samplers.calculate_sigmas(model_sampling, "normal", round(states / LEARN_UNTIL))
    return whole[whole >= model_sampling.percent_to_sigma(LEARN_UNTIL)]


def pairs_of_batch(learner: Learner, batch: int, number: int) -> list[int]:
    """Which pair each image of batch `number` belongs to: every pair in turn, in an order drawn from the seed."""
    count = len(learner.conds["base"])
    if not all(cond.mergeable(conds) for conds in learner.conds.values()):
        return [number % count] * batch
    order = torch.randperm(count, generator=generator_for(learner.settings.seed, 1)).tolist()
    return [order[(number * batch + i) % count] for i in range(batch)]


def generator_for(seed: int, *stream: int) -> torch.Generator:
    """Noise that depends on the seed and on what it is for, so that a resumed run draws what it would have drawn."""
    for number in stream:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


def run_noise(learner: Learner, shape: torch.Size) -> torch.Tensor:
    """What the sampling run that begins at the learner's step starts from."""
    return torch.randn(shape, generator=generator_for(learner.settings.seed, 2, learner.step))


def roll_out(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Distilled, on-policy: sampling runs steered by the vector so far, with one optimiser step at each state.

    Returns the images as they were predicted at the end of each run.
    """
    sampling = learner.model.model_sampling
    images = []
    while not learner.finished:
        pairs = pairs_of_batch(learner, noise.shape[0], learner.step // len(sigmas))

        def denoiser(x, sigma, pairs=pairs, **_):
            if learner.finished:
                return images[-1]
            student = learner.teach(x, sigma, pairs)
            with torch.no_grad():
                empty = learner.denoise([learner.conds["unconditional"]], x, sigma)[0]
            images[-1] = empty + ROLL_OUT_CFG * (student - empty)
            learner.report(images[-1])
            return images[-1]

        start = run_noise(learner, noise.shape).to(noise)
        x = sampling.noise_scaling(sigmas[0], start, torch.zeros_like(start), True)
        images.append(x)
        # One step beyond the last state, so that it is visited too.
        ends = torch.cat([sigmas, sigmas[-1:] * 0.9])
        comfy.k_diffusion.sampling.sample_euler(denoiser, x, ends, disable=True)
    return torch.cat(images)


def learn_from_samples(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor, samples: list[torch.Tensor]):
    """Noised samples as x_t: the paper's objective, or the teacher's on given images. A batch is of one size."""
    settings, sampling = learner.settings, learner.model.model_sampling
    groups = [
        (learner.model.process_latent_in(latents.clone()).to(noise), places) for latents, places in by_size(samples)
    ]
    if len(groups) > 1 and any("c_concat" in one["model_conds"] for conds in learner.conds.values() for one in conds):
        raise ValueError(
            f"samples: images of {len(groups)} sizes, but this model's prompts carry an image of their own (inpainting), "
            "which has one size. Connect images of one size."
        )
    counts = torch.tensor([float(len(places)) for _, places in groups])
    count = len(learner.conds["base"])
    same_pair = not all(cond.mergeable(conds) for conds in learner.conds.values())
    while not learner.finished:
        generator = generator_for(settings.seed, 3, learner.step)
        group = int(torch.multinomial(counts, 1, generator=generator)) if len(groups) > 1 else 0
        latents, places = groups[group]
        chosen = torch.randint(latents.shape[0], (settings.batch_size,), generator=generator)
        pairs = places % count
        if same_pair:
            alike = (pairs == pairs[chosen[0]]).nonzero().flatten()
            chosen = alike[chosen % len(alike)]
        u = torch.rand(settings.batch_size, generator=generator)
        percent = stratified(u) if learner.distilled else 1 - (u * 1000).floor() / 999
        sigma = torch.tensor([sampling.percent_to_sigma(p) for p in percent.clamp(1e-6, 1 - 1e-6).tolist()]).to(noise)
        x0 = latents[chosen.to(latents.device)]
        eps = torch.randn(x0.shape, generator=generator).to(noise)
        x = sampling.noise_scaling(sigma, eps, x0, False)
        learn = learner.teach if learner.distilled else partial(learner.reconstruct, x0=x0)
        learner.report(learn(x, sigma, pairs[chosen].tolist()))
    return groups[0][0][: noise.shape[0]]


def stratified(u: torch.Tensor) -> torch.Tensor:
    """Places in the noise schedule for a batch, one in each equal part of it, from uniform numbers `[B]`."""
    return LEARN_UNTIL * (torch.arange(len(u)) + u) / len(u)


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


def draw_samples(model, concept: list, avoid: list | None, settings: DiscoverySettings, shape) -> torch.Tensor:
    """`sample_count` LATENT images under the concept prompts, image i under prompt i modulo their number."""
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", SAMPLING_STEPS)
    drawn: dict[int, torch.Tensor] = {}
    for pair in range(len(concept)):
        wanted = range(pair, settings.sample_count, len(concept))
        negative = cond.zeroed(concept) if avoid is None else [avoid[pair % len(avoid)]]
        for start in range(0, len(wanted), settings.batch_size):
            indices = wanted[start : start + settings.batch_size]
            latent = torch.zeros(len(indices), *shape)
            noise = torch.cat([torch.randn(1, *shape, generator=generator_for(settings.seed, 4, i)) for i in indices])
            images = comfy.sample.sample_custom(
                model, noise, SAMPLING_CFG, sampler, sigmas, [concept[pair]], negative, latent,
                disable_pbar=True, seed=settings.seed,
            )  # fmt: skip
            drawn.update(zip(indices, images.cpu(), strict=True))
            comfy.model_management.throw_exception_if_processing_interrupted()
    return torch.stack([drawn[i] for i in range(settings.sample_count)])
