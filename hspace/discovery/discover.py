"""Discover one vector, with the U-Net frozen.

A discovery runs as a `comfy.samplers.Sampler` under a guider, so that ComfyUI loads the model, prepares every kind of
conditioning and applies the user's patches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ..bottleneck import Bottleneck, base_model, find_bottleneck
from ..comfy_compat import patched_weights, unet_structure, with_role
from ..comfy_weights import decoder_layers, set_conds
from ..concepts import Provenance, UnfinishedVector, Vector
from ..version import CREATED_WITH
from .addition import Addition
from .beginning import beginning_note, latent_shape, start_vector, with_responses
from .frozen_model import FrozenModel
from .gradients import gradients_through, recomputing, to_normal
from .image_judge import ImageJudge
from .length import sound_length
from .observer import Observer
from .optimiser import VectorOptimiser
from .preview import Preview
from .prompt_pairs import PreparedPairs, PromptPairs
from .recipe import RECIPES, Recipe
from .run import Run
from .samples import SAMPLING_STEPS, sample_images
from .settings import DiscoverySettings
from .strength_range import StrengthRange, measure_range


@dataclass(frozen=True)
class Discovery:
    """The result of a discovery.

    Attributes:
        vector: the finished vector.
        losses: mean error of each step.
        samples: the LATENT images that it was learnt on or ended with, batches `[n, C, h, w]`.
        evaluations: U-Net evaluations, one image each, backward passes counted as one.
        strengths: None where they were not to be measured.
    """

    vector: Vector
    losses: list[float]
    samples: list[torch.Tensor]
    evaluations: int
    strengths: StrengthRange | None = None


def discover(
    model,
    pairs: PromptPairs,
    settings: DiscoverySettings,
    samples: torch.Tensor | list[torch.Tensor] | None = None,
    start_from: Vector | None = None,
    observer: Observer | None = None,
    recipe: Recipe | None = None,
) -> Discovery:
    """Discover one vector.

    Args:
        model: ModelPatcher; neither it nor its weights are changed.
        pairs: prompts.
        settings: what the user chose.
        samples: LATENT values `[N, C, h, w]` to learn from, or a list of such batches, of any sizes; image i belongs to
            pair i modulo the number of pairs. The vector gets the map size of the size that most images have.
        start_from: continue from this vector, and where it is unfinished, with its optimiser state.
        observer: told of each step, and of the vector at the end, also where the run is cancelled or fails.
        recipe: the method; that of `settings.method` where it is None.

    Raises:
        ValueError: an input that does not fit; the message names it.
    """
    recipe, observer = recipe or RECIPES[settings.method], observer or Observer()
    bottleneck = find_bottleneck(model)
    samples = [samples] if isinstance(samples, torch.Tensor) else samples
    if pairs.same_sides and pairs.avoid is None and (not recipe.needs_samples or samples is None):
        raise ValueError(
            "concept: says the same as base, so there is nothing to learn. Name the concept in one of them, or connect "
            "to avoid what it must lack."
        )
    if pairs.keep and (recipe.needs_samples or samples is not None):
        raise ValueError(
            "keep: works where discovery samples its own images under these prompts, which is method distilled "
            "without samples. Disconnect keep, or samples; or choose distilled."
        )
    shape = latent_shape(model, bottleneck, settings, samples)
    if start_from is None:
        start_from = start_vector(bottleneck, settings, recipe, shape)
    bottleneck.check_fits(start_from)
    start_from = with_responses(start_from, settings)
    if text := beginning_note(bottleneck, pairs, settings, samples, start_from):
        observer.note(text)
    sampled = 0
    try:
        if samples is None and recipe.needs_samples:
            samples = [sample_images(model, pairs, settings, shape)]
            sampled = len(samples[0]) * SAMPLING_STEPS * 2
        sampler = _DiscoverySampler(model, pairs, settings, samples, start_from, observer, recipe, bottleneck, sampled)
        latents = sampler.sample_with(shape)
    except RuntimeError:
        # Not before: other nodes may have made the model take prompts of another width.
        pairs.check_width(unet_structure(model).context_dim)
        raise
    vector = sampler.vector()
    _tell(observer.finished, vector)
    return Discovery(
        vector,
        sampler.run.optimiser.losses,
        [latents] if samples is None else samples,
        sampler.evaluations,
        sampler.strengths,
    )


class _DiscoverySampler(comfy.samplers.Sampler):
    """Runs the recipe's loop where ComfyUI has everything ready; see `discover` for the arguments.

    Attributes:
        sampled: evaluations that sampling the images took.
        run: what the recipe's loop works on.
    """

    def __init__(
        self,
        model,
        pairs: PromptPairs,
        settings: DiscoverySettings,
        samples: list[torch.Tensor] | None,
        start_from: Vector,
        observer: Observer,
        recipe: Recipe,
        bottleneck: Bottleneck,
        sampled: int,
    ):
        self.model, self.pairs, self.settings, self.samples = model, pairs, settings, samples
        self.start_from, self.observer, self.recipe = start_from, observer, recipe
        self.bottleneck, self.sampled = bottleneck, sampled
        self.base_model = base_model(model)
        self._run: Run | None = None
        self.strengths: StrengthRange | None = None

    def sample_with(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """Sample with the guider and this sampler; tells the observer where that ends early."""
        settings, model = self.settings, self.model
        guider = comfy.samplers.CFGGuider(model)
        # All roles are prompts for images, so patches that tell CFG's halves apart must take them for positive ones.
        set_conds(guider, self.pairs.with_roles(), with_role(self.pairs.unconditional(), "empty"))
        latent = torch.zeros(settings.batch_size, *shape)
        noise = comfy.sample.prepare_noise(latent, settings.seed)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 1)
        # Sampling asks for the memory of a forward pass; the decoder's graph keeps about as much again for each image.
        memory = model.memory_required([4 * settings.batch_size, *shape])
        comfy.model_management.load_models_gpu([model], memory_required=memory)
        try:
            return guider.sample(noise, latent, self, sigmas, disable_pbar=True, seed=settings.seed)
        except BaseException:
            if self._run is not None and self._run.optimiser.losses:
                _tell(self.observer.stopped, self.vector())
            raise

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        """Called by ComfyUI; `noise` `[B, C, h, w]` has the shape of the states and is on the model's device."""
        model, settings = model_wrap.inner_model, self.settings
        with gradients_through(model, noise.shape, noise.device, model_wrap.model_patcher), ExitStack() as patches:

            def recompute():
                patches.enter_context(recomputing(decoder_layers(model)))

            prompts = PreparedPairs(to_normal(model_wrap.conds), len(self.pairs.keep or ()))
            frozen = FrozenModel(model, prompts, extra_args["model_options"])
            start = {site: tensor.to(noise.device, copy=True) for site, tensor in self.start_from.tensors.items()}
            responses = {site: r.to(noise.device, copy=True) for site, r in self.start_from.responses.items()}
            optimiser = VectorOptimiser(start, self.recipe, settings, self.pairs.avoid is not None, responses)
            run = self._run = Run(
                settings, self.recipe, frozen, optimiser, tuple(noise.shape), noise.device, self.observer, self.vector
            )
            if settings.gradient_checkpointing:
                recompute()
            else:
                run.recompute = recompute
            if isinstance(self.start_from, UnfinishedVector):
                run.resume(self.start_from.state)
            if self.observer.preview_every:
                run.preview = Preview(frozen, noise.shape[1:], self.observer.preview_every, settings.seed, noise.device)
            latents = self.recipe.states(run, self.samples)
            judge = ImageJudge(
                frozen, noise.shape[1:], settings.seed, settings.batch_size, noise.device, self.observer.judged
            )
            learnt = optimiser.addition
            if optimiser.needs_longest:
                optimiser.longest = sound_length(judge, learnt, optimiser.wanted_scale)
            if settings.measure_range:
                self.strengths = measure_range(judge, learnt.scaled(optimiser.scale))
            return latents

    @property
    def run(self) -> Run:
        if self._run is None:
            raise RuntimeError("ComfyUI ended the sampling run without calling its sampler.")
        return self._run

    @property
    def evaluations(self) -> int:
        """U-Net evaluations so far, those of the sampled images included."""
        return self.sampled + self.run.model.evaluations

    def vector(self) -> Vector:
        """The vector as it is so far."""
        optimiser = self.run.optimiser
        learnt = optimiser.addition if optimiser.settled else Addition(optimiser.tensors, optimiser.responses)
        learnt = learnt.scaled(optimiser.scale)
        tensors = dict(learnt.constants)
        names = self.settings.name, self.bottleneck.family
        values = (tensors.pop(0), *names, self._provenance(), tensors, learnt.responses)
        return Vector(*values) if optimiser.settled else UnfinishedVector(*values, self.run.state())

    def _provenance(self) -> Provenance:
        settings, optimiser, texts = self.settings, self.run.optimiser, self.pairs.texts
        patches = patched_weights(self.model)
        recent = optimiser.losses[-max(1, len(optimiser.losses) // 10) :]
        height, width = self.run.shape[2:]
        return Provenance(
            base_model=self.base_model,
            prediction_type=self.bottleneck.prediction_type,
            latent_height=height,
            latent_width=width,
            concept_prompt=texts.get("concept_prompt", ""),
            base_prompt=texts.get("base_prompt", ""),
            avoid_prompt=texts.get("avoid_prompt", ""),
            keep_prompt=texts.get("keep_prompt", ""),
            method=settings.method,
            pairs=len(self.pairs.base),
            steps=optimiser.step,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            guidance=settings.guidance,
            seed=settings.seed,
            spatial_mean=settings.spatial_mean and optimiser.settled,
            sites="decoder" if len(optimiser.tensors) > 1 else "",
            model_patches=f"{patches} weights (LoRA, merge ...)" if patches else "",
            reach=optimiser.reach,
            scale=None if optimiser.reach is None else optimiser.scale,
            **(self.strengths.facts() if self.strengths else {}),
            evaluations=self.evaluations,
            final_loss=sum(recent) / len(recent) if recent else None,
            created_with=CREATED_WITH,
        )


def _tell(listener: Callable[[Vector], None], vector: Vector) -> None:
    """Call an observer where what it raises must not hide the vector, or the reason why the discovery stopped."""
    try:
        listener(vector)
    except Exception:
        logging.exception("[H-Space Steering] The discovery of '%s' could not be reported.", vector.name)
