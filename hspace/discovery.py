"""Find the vector in h-space that stands for a concept, with the U-Net frozen.

Two methods:

- `paper` (Li et al., CVPR 2024, section 3.2): images sampled under the concept prompt are noised and denoised under
  the base prompt; the vector learns what the prompt left out. `min_c E || eps - eps_theta(x_t, t, y-; h + c) ||^2`,
  t uniform, Adam at a constant absolute learning rate.
- `distilled`: the target is not the sampled noise, whose variance swamps the loss, but what the frozen model itself
  predicts under the concept prompt at the same x_t (`objective.teacher_target`). The x_t are the states of sampling
  runs under the base prompt, steered by the vector as it is so far: the roll-out a sampler makes anyway, with one
  optimiser step at each state, so no image has to be generated beforehand. With given samples, x_t are those, noised.

Both run as a `comfy.samplers.Sampler` under a guider, so that ComfyUI loads the model, prepares every kind of
conditioning and applies the user's patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from . import conditioning as cond
from .autograd import gradients_through, to_normal
from .concept import Direction
from .learner import Learner, Progress
from .site import find_site
from .steering import check_fits

METHODS = ("distilled", "paper")
ROLL_OUT_CFG = 4.0
SAMPLING_CFG = 7.5
SAMPLING_STEPS = 20
STATES_PER_ROLL_OUT = (8, 50)
LEARN_FROM_PERCENT, LEARN_TO_PERCENT = 0.0, 0.7
CREATED_WITH = "H-Space Steering 0.1.0"


@dataclass(frozen=True)
class DiscoverySettings:
    """What a user chooses. Raises ValueError naming the input that is out of range.

    Attributes:
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: `distilled`: step of Adam as a share of the RMS of h, decaying by a cosine. `paper`: absolute
            and constant, as published.
        guidance: teacher guidance g; `paper` has no teacher.
        sample_count: images to draw, where none are given.
        width, height: of those images, in pixels.
    """

    name: str
    method: str = "distilled"
    steps: int = 300
    batch_size: int = 8
    learning_rate: float = 0.1
    guidance: float = 3.0
    sample_count: int = 128
    width: int = 512
    height: int = 512
    seed: int = 0

    def __post_init__(self):
        if not self.name.strip():
            raise ValueError("name: the concept needs a name, e.g. 'woman'.")
        if self.method not in METHODS:
            raise ValueError(f"method: '{self.method}' is not one of {', '.join(METHODS)}.")
        for key in ("steps", "batch_size", "sample_count"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} is too small; 1 is the least.")
        for key in ("learning_rate", "guidance"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) > 0):
                raise ValueError(f"{key}: {getattr(self, key)} must be a positive number.")


@dataclass
class Discovery:
    """Result: the direction, the loss of every step, the images (LATENT values) it was learnt on or ended with."""

    direction: Direction
    losses: list[float]
    samples: torch.Tensor
    evaluations: int


class _DiscoverySampler(comfy.samplers.Sampler):
    """Runs `learn(learner, sigmas, noise)` where ComfyUI has everything ready, and hands its latents back."""

    def __init__(self, settings: DiscoverySettings, start: Direction, learn, listener):
        self.settings, self.start, self.learn, self.listener = settings, start, learn, listener
        self.learner: Learner | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
               disable_pbar=False):  # fmt: skip
        model = model_wrap.inner_model
        with gradients_through(model):
            self.learner = Learner(
                settings=self.settings,
                model=model,
                conds=to_normal(model_wrap.conds),
                vector=self.start.tensor.to(noise.device, copy=True),
                options=extra_args["model_options"],
                listener=self.listener,
            )
            self.learner.resume(self.start.extra)
            return self.learn(self.learner, sigmas.clone(), noise.clone())


def discover(
    model,
    concept: list,
    base: list,
    settings: DiscoverySettings,
    samples: torch.Tensor | None = None,
    avoid: list | None = None,
    start_from: Direction | None = None,
    prompts: dict[str, str] | None = None,
    listener: Callable[[Progress], None] | None = None,
    keep_partial: Callable[[Direction], object] | None = None,
) -> Discovery:
    """Discover one direction.

    Args:
        model: ModelPatcher; neither it nor its weights are changed.
        concept, base, avoid: CONDITIONING, one entry a pair.
        samples: LATENT values `[N, C, h, w]` to learn from; image i belongs to pair i modulo the number of pairs.
        start_from: continue from this direction, with its optimiser state where it has one.
        prompts: texts for the metadata, `concept_prompt` and `base_prompt`.
        listener: told after every step; may raise to stop.
        keep_partial: given the direction found so far when the run is cancelled or fails.

    Raises:
        ValueError: an input that does not fit; the message names it.
    """
    site = find_site(model)
    cond.check_pairs(concept, base, avoid)
    shape = _latent_shape(model, settings, samples)
    height, width = site.map_size(*shape[1:])
    if start_from is None:
        start_from = Direction(torch.zeros(site.channels, height, width), settings.name, site.family)
    check_fits(start_from, site)
    evaluations = 0
    if samples is None and settings.method == "paper":
        samples = _draw_samples(model, concept, avoid, settings, shape)
        evaluations = samples.shape[0] * SAMPLING_STEPS * 2

    learn = _roll_out if samples is None else partial(_learn_from_samples, samples=samples)
    sampler = _DiscoverySampler(settings, start_from, learn, listener)
    guider = comfy.samplers.CFGGuider(model)
    roles = {"concept": concept, "base": base}
    if avoid is not None:
        roles["avoid"] = avoid
    guider.inner_set_conds({**roles, "unconditional": cond.zeroed(base)})
    latent = torch.zeros(settings.batch_size, *shape)
    noise = comfy.sample.prepare_noise(latent, settings.seed)
    sampling = model.get_model_object("model_sampling")
    steps = _states_per_roll_out(settings)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)

    def direction() -> Direction:
        learner = sampler.learner
        metadata = _metadata(site, settings, shape, learner, evaluations, prompts or {}, len(base))
        finished = {} if learner.finished else learner.state()
        return Direction(learner.vector.detach(), settings.name, site.family, metadata, finished)

    try:
        drawn = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=settings.seed)
    except BaseException:
        if keep_partial and sampler.learner is not None and sampler.learner.losses:
            keep_partial(direction())
        raise
    return Discovery(
        direction(), sampler.learner.losses, drawn if samples is None else samples,
        evaluations + sampler.learner.evaluations,
    )  # fmt: skip


def _latent_shape(model, settings: DiscoverySettings, samples: torch.Tensor | None) -> tuple[int, int, int]:
    channels = model.get_model_object("latent_format").latent_channels
    if samples is None:
        for key in ("width", "height"):
            if getattr(settings, key) < 64 or getattr(settings, key) % 8:
                raise ValueError(f"{key}: {getattr(settings, key)} must be a multiple of 8, 64 at least.")
        return channels, settings.height // 8, settings.width // 8
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(
            f"samples: latents of shape {list(samples.shape)} do not fit a model with {channels} latent channels; "
            "encode the images with this model's VAE."
        )
    return tuple(samples.shape[1:])


def _states_per_roll_out(settings: DiscoverySettings) -> int:
    """So many that `sample_count` images, `batch_size` at a time, take `steps` optimiser steps in all."""
    runs = max(1, round(settings.sample_count / settings.batch_size))
    least, most = STATES_PER_ROLL_OUT
    return min(max(round(settings.steps / runs / (LEARN_TO_PERCENT - LEARN_FROM_PERCENT)), least), most)


def _pairs(learner: Learner, batch: int, number: int) -> list[int]:
    """Which pair each image of batch `number` belongs to: every pair in turn, in an order drawn from the seed."""
    count = len(learner.conds["base"])
    if not all(cond.mergeable(conds) for conds in learner.conds.values()):
        return [number % count] * batch
    order = torch.randperm(count, generator=_generator(learner.settings.seed, 1)).tolist()
    return [order[(number * batch + i) % count] for i in range(batch)]


def _generator(seed: int, *stream: int) -> torch.Generator:
    """Noise that depends on the seed and on what it is for, so that a resumed run draws what it would have drawn."""
    for number in stream:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


def _roll_out(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Distilled, on-policy: sampling runs steered by the vector so far, with one optimiser step at each state."""
    sampling = learner.model.model_sampling
    first, last = sampling.percent_to_sigma(LEARN_FROM_PERCENT), sampling.percent_to_sigma(LEARN_TO_PERCENT)
    finished = []
    number = 0
    while not learner.finished:
        pairs = _pairs(learner, noise.shape[0], number)
        unconditional = learner.conds["unconditional"]
        if "avoid" in learner.conds:
            count = len(learner.conds["avoid"])
            unconditional = cond.rows(learner.conds["avoid"], [pair % count for pair in pairs])

        def denoiser(x, sigma, pairs=pairs, unconditional=unconditional, **_):
            base = cond.rows(learner.conds["base"], pairs)
            if last <= sigma[0] <= first and not learner.finished:
                student, _, _ = learner.teach(x, sigma, pairs)
                with torch.no_grad():
                    empty = learner.denoise([unconditional], x, sigma)[0]
            else:
                with torch.no_grad():
                    student = learner.denoise([base], x, sigma, steered=True)[0]
                    empty = learner.denoise([unconditional], x, sigma)[0]
            denoised = empty + ROLL_OUT_CFG * (student - empty)
            learner.report(denoised)
            return denoised

        start = torch.randn(noise.shape, generator=_generator(learner.settings.seed, 2, number)).to(noise)
        x = sampling.noise_scaling(sigmas[0], start, torch.zeros_like(start), True)
        finished.append(comfy.k_diffusion.sampling.sample_euler(denoiser, x, sigmas, disable=True))
        number += 1
    return torch.cat(finished)


def _learn_from_samples(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor, samples: torch.Tensor):
    """Noised samples as x_t: the paper's objective, or the teacher's on given images."""
    settings, sampling = learner.settings, learner.model.model_sampling
    latents = learner.model.process_latent_in(samples.clone()).to(noise)
    count = len(learner.conds["base"])
    same_pair = not all(cond.mergeable(conds) for conds in learner.conds.values())
    while not learner.finished:
        generator = _generator(settings.seed, 3, learner.step)
        chosen = torch.randint(latents.shape[0], (settings.batch_size,), generator=generator)
        if same_pair:
            chosen = chosen - chosen % count + chosen[0] % count
            chosen = torch.where(chosen < latents.shape[0], chosen, chosen[0])
        u = torch.rand(settings.batch_size, generator=generator)
        if learner.distilled:
            strata = (torch.arange(settings.batch_size) + u) / settings.batch_size
            percent = LEARN_FROM_PERCENT + (LEARN_TO_PERCENT - LEARN_FROM_PERCENT) * strata
        else:
            percent = 1 - (u * 1000).floor() / 999
        sigma = torch.tensor([sampling.percent_to_sigma(p) for p in percent.clamp(1e-6, 1 - 1e-6).tolist()]).to(noise)
        x0 = latents[chosen.to(latents.device)]
        eps = torch.randn(x0.shape, generator=generator).to(noise)
        x = sampling.noise_scaling(sigma, eps, x0, False)
        pairs = (chosen % count).tolist()
        if learner.distilled:
            student, _, _ = learner.teach(x, sigma, pairs)
        else:
            student = learner.reconstruct(x, sigma, pairs, x0)
        learner.report(student)
    return latents[: noise.shape[0]]


def _draw_samples(model, concept: list, avoid: list | None, settings: DiscoverySettings, shape) -> torch.Tensor:
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
            noise = torch.cat([torch.randn(1, *shape, generator=_generator(settings.seed, 4, i)) for i in indices])
            images = comfy.sample.sample_custom(
                model, noise, SAMPLING_CFG, sampler, sigmas, [concept[pair]], negative, latent,
                disable_pbar=True, seed=settings.seed,
            )  # fmt: skip
            drawn.update(zip(indices, images.cpu(), strict=True))
            comfy.model_management.throw_exception_if_processing_interrupted()
    return torch.stack([drawn[i] for i in range(settings.sample_count)])


def _metadata(site, settings: DiscoverySettings, shape, learner: Learner, evaluations: int, prompts, pairs: int):
    recent = learner.losses[-max(1, len(learner.losses) // 10) :]
    return {
        "name": settings.name,
        "base_model": site.base_model,
        "prediction_type": site.prediction_type,
        "h_channels": str(site.channels),
        "latent_height": str(shape[1]),
        "latent_width": str(shape[2]),
        **{key: value for key, value in prompts.items() if value},
        "method": settings.method,
        "pairs": str(pairs),
        "steps": str(learner.step),
        "batch_size": str(settings.batch_size),
        "learning_rate": f"{settings.learning_rate:g}",
        "guidance": f"{settings.guidance:g}",
        "seed": str(settings.seed),
        "evaluations": str(evaluations + learner.evaluations),
        "final_loss": f"{sum(recent) / len(recent):.6g}" if recent else "",
        "created_with": CREATED_WITH,
    }
