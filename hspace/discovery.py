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

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from . import conditioning as cond
from .autograd import gradients_through, recomputing, to_normal
from .autosave import PartialFile
from .comfy_compat import decoder_layers
from .comparison import Comparison
from .concept import Direction
from .learner import Learner, Progress
from .settings import DiscoverySettings
from .site import find_site
from .states import (
    SAMPLING_STEPS,
    draw_samples,
    learn_from_samples,
    roll_out,
    roll_out_sigmas,
)
from .steering import check_fits
from .strength_range import StrengthRange, measure_range

CREATED_WITH = "H-Space Steering 0.1.0"


@dataclass
class Discovery:
    """Result: the direction, the loss of every step, the images (batches of LATENT values) it was learnt on or ended with.

    `strengths` is None where they were not to be measured.
    """

    direction: Direction
    losses: list[float]
    samples: list[torch.Tensor]
    evaluations: int
    strengths: StrengthRange | None = None


class _DiscoverySampler(comfy.samplers.Sampler):
    """Runs `learn(learner, sigmas, noise)` where ComfyUI has everything ready, and hands its latents back."""

    def __init__(self, settings: DiscoverySettings, start: Direction, learn, listener, counts: dict[str, int],
                 compare_every: int):  # fmt: skip
        self.settings, self.start, self.learn, self.listener, self.counts = settings, start, learn, listener, counts
        self.compare_every = compare_every
        self.learner: Learner | None = None
        self.strengths: StrengthRange | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
               disable_pbar=False):  # fmt: skip
        model = model_wrap.inner_model
        recomputed = decoder_layers(model) if self.settings.gradient_checkpointing else []
        with gradients_through(model), recomputing(recomputed):
            self.learner = Learner(
                settings=self.settings,
                model=model,
                conds=self._by_role(to_normal(model_wrap.conds)),
                vector=self.start.tensor.to(noise.device, copy=True),
                options=extra_args["model_options"],
                listener=self.listener,
            )
            self.learner.resume(self.start.extra)
            if self.compare_every:
                self.learner.comparison = Comparison(self.learner, noise.shape[1:], self.compare_every)
            drawn = self.learn(self.learner, sigmas.clone(), noise.clone())
            if self.settings.measure_range:
                self.strengths = measure_range(self.learner, noise.shape[1:])
            return drawn

    def _by_role(self, conds: dict[str, list[dict]]) -> dict[str, list[dict]]:
        roles, rest = {"unconditional": conds["negative"]}, conds["positive"]
        for role, count in self.counts.items():
            roles[role], rest = rest[:count], rest[count:]
        return roles


def discover(
    model,
    concept: list,
    base: list,
    settings: DiscoverySettings,
    samples: torch.Tensor | list[torch.Tensor] | None = None,
    avoid: list | None = None,
    start_from: Direction | None = None,
    prompts: dict[str, str] | None = None,
    listener: Callable[[Progress], None] | None = None,
    keep_partial: Callable[[Direction], object] | None = None,
    compare_every: int = 0,
    partial_file: PartialFile | None = None,
) -> Discovery:
    """Discover one direction.

    Args:
        model: ModelPatcher; neither it nor its weights are changed.
        concept, base, avoid: CONDITIONING, one entry a pair.
        samples: LATENT values `[N, C, h, w]` to learn from, or a list of such batches, of any sizes; image i belongs to pair
            i modulo the number of pairs. The direction gets the map size of the size that most images have.
        start_from: continue from this direction, with its optimiser state where it has one.
        prompts: texts for the metadata, `concept_prompt` and `base_prompt`.
        listener: told after every step; may raise to stop.
        keep_partial: given the direction found so far when the run is cancelled or fails.
        compare_every: steps from one `Comparison` to the next, which the listener then gets as preview; 0 for none, and
            a preview of the state at each step.
        partial_file: what is found so far is saved there now and then, and removed when the discovery is finished.

    Raises:
        ValueError: an input that does not fit; the message names it.
    """
    site = find_site(model)
    cond.check_pairs(concept, base, avoid)
    same = cond.same_prompts(concept, base)
    if same and avoid is None and (settings.method == "distilled" or samples is None):
        raise ValueError(
            "concept: the same prompt as base, so there is nothing to learn. Say the concept in one of them, or connect "
            "to avoid what it must lack."
        )
    samples = [samples] if isinstance(samples, torch.Tensor) else samples
    shape = _latent_shape(model, settings, samples)
    height, width = site.map_size(*shape[1:])
    if start_from is None:
        start_from = Direction(torch.zeros(site.channels, height, width), settings.name, site.family)
    check_fits(start_from, site)
    evaluations = 0
    if samples is None and settings.method == "paper":
        samples = [draw_samples(model, concept, avoid, settings, shape)]
        evaluations = samples[0].shape[0] * SAMPLING_STEPS * 2

    learn = roll_out if samples is None else partial(learn_from_samples, samples=samples)
    roles = {"base": base} if same else {"base": base, "concept": concept}
    if avoid is not None:
        roles["avoid"] = avoid
    counts = {role: len(conditioning) for role, conditioning in roles.items()}

    def after_step(progress: Progress) -> None:
        if listener:
            listener(progress)
        if partial_file and partial_file.due:
            partial_file.save(direction())

    sampler = _DiscoverySampler(settings, start_from, learn, after_step, counts, compare_every)
    guider = comfy.samplers.CFGGuider(model)
    # All roles are prompts for images, so patches that tell CFG's halves apart must take them for positive ones.
    guider.set_conds([entry for conditioning in roles.values() for entry in conditioning], cond.zeroed(base))
    latent = torch.zeros(settings.batch_size, *shape)
    noise = comfy.sample.prepare_noise(latent, settings.seed)
    sigmas = roll_out_sigmas(model.get_model_object("model_sampling"), settings)

    # Sampling asks for the memory of a forward pass; the decoder's graph keeps about as much again for each image.
    memory = model.memory_required([4 * settings.batch_size, *shape])
    comfy.model_management.load_models_gpu([model], memory_required=memory)

    def direction() -> Direction:
        learner = sampler.learner
        metadata = _metadata(site, settings, shape, learner, evaluations, prompts or {}, len(base), len(model.patches))
        metadata |= sampler.strengths.metadata() if sampler.strengths else {}
        found = learner.steers_with if learner.finished else learner.vector
        finished = {} if learner.finished else learner.state()
        return Direction(found.detach() * learner.scale, settings.name, site.family, metadata, finished)

    try:
        drawn = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=settings.seed)
    except BaseException:
        if keep_partial and sampler.learner is not None and sampler.learner.losses:
            keep_partial(direction())
        raise
    if partial_file:
        partial_file.discard()
    return Discovery(
        direction(), sampler.learner.losses, [drawn] if samples is None else samples,
        evaluations + sampler.learner.evaluations, sampler.strengths,
    )  # fmt: skip


def _latent_shape(model, settings: DiscoverySettings, samples: list[torch.Tensor] | None) -> tuple[int, int, int]:
    channels = model.get_model_object("latent_format").latent_channels
    if samples is None:
        for key in ("width", "height"):
            if getattr(settings, key) < 64 or getattr(settings, key) % 8:
                raise ValueError(f"{key}: {getattr(settings, key)} must be a multiple of 8, 64 at least.")
        return channels, settings.height // 8, settings.width // 8
    if not sum(len(batch) for batch in samples):
        raise ValueError("samples: there is no image in them; connect some, or nothing.")
    sizes = Counter()
    for batch in samples:
        if batch.ndim != 4 or batch.shape[1] != channels:
            raise ValueError(
                f"samples: latents of shape {list(batch.shape)} do not fit a model with {channels} latent channels; "
                "encode the images with this model's VAE."
            )
        sizes[tuple(batch.shape[1:])] += len(batch)
    return sizes.most_common(1)[0][0]


def _metadata(site, settings: DiscoverySettings, shape, learner: Learner, evaluations: int, prompts, pairs: int,
              patches: int):  # fmt: skip
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
        **({"spatial_mean": "true"} if settings.spatial_mean and learner.finished else {}),
        **({"model_patches": f"{patches} weights (LoRA, merge ...)"} if patches else {}),
        **({"reach": f"{learner.reach:.4g}", "scale": f"{learner.scale:.4g}"} if learner.reach_steps else {}),
        "evaluations": str(evaluations + learner.evaluations),
        "final_loss": f"{sum(recent) / len(recent):.6g}" if recent else "",
        "created_with": CREATED_WITH,
    }
