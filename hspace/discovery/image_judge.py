"""The frozen, unsteered model as a judge of images: it is asked how well it takes noise off them again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import comfy.model_management
import torch

from .addition import Addition
from .distilled import ROLL_OUT_CFG
from .frozen_model import FrozenModel
from .objective import mean_square, prediction_scale
from .streams import Stream, generator

IMAGES, STEPS = 8, 10
NOISE_LEVELS = (0.4, 0.55, 0.7)
"""Places in the noise schedule, 0 the noisiest: where details are there to be broken, and little noise hides them."""
BROKEN = 2.0
"""Loss relative to that of unsteered images. The emoji model begins to lose professions there (docs/decisions.md)."""

Losses = tuple[torch.Tensor, torch.Tensor]
"""Of images `[IMAGES]`, under the prompts without the concept and under those with it."""


class ImageJudge:
    """Samples eight images and judges them, 208 U-Net evaluations. Seeds and noise are the same each time.

    Args:
        model: with the pairs of prompts that a vector was found on.
        shape: of a latent, `[C, h, w]`.
        seed: of the images and of the noise.
        batch_size: images at a time.
        device: of the latents.
        done: called each time.
    """

    def __init__(
        self,
        model: FrozenModel,
        shape: tuple[int, ...],
        seed: int,
        batch_size: int,
        device: torch.device,
        done: Callable[[], None],
    ):
        self.model, self.shape, self.seed, self.batch_size, self.device = model, shape, seed, batch_size, device
        self.done = done

    @cached_property
    def unsteered(self) -> Losses:
        """Losses of images of the base prompts as they are."""
        return self.losses(None)

    def relative(self, losses: Losses) -> float:
        """The loss under the better of the two prompts, relative to that of unsteered images.

        Infinite where images are not numbers, as in half precision far from what the model knows.
        """
        loss = _best(losses) / _best(self.unsteered)
        return loss if math.isfinite(loss) else math.inf

    @torch.no_grad()
    def losses(self, add: Addition | None, role: str = "base") -> Losses:
        """Losses of images of a role's prompts, steered by `add`.

        Raises:
            comfy.model_management.InterruptProcessingException: the user has cancelled.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        model, prompts = self.model, self.model.prompts
        roles = ("base", "concept") if "concept" in prompts.roles else ("avoid", "base")
        losses: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for number, start in enumerate(range(0, IMAGES, self.batch_size)):
            pairs = prompts.of_batch(min(self.batch_size, IMAGES - start), number, self.seed, keep=False)
            random = generator(self.seed, Stream.RANGE_IMAGES, number)
            noise = torch.randn(len(pairs), *self.shape, generator=random).to(self.device)
            sigmas = model.sigmas(STEPS).to(self.device)
            start_from = model.pure_noise(noise, sigmas[0])
            latents = model.sample(prompts.prompts_of(role, pairs), start_from, sigmas, ROLL_OUT_CFG, add)
            judged = self._judge([prompts.prompts_of(judge, pairs) for judge in roles], latents, number)
            for total, loss in zip(losses, judged, strict=True):
                total.append(loss)
        self.done()
        return torch.cat(losses[0]), torch.cat(losses[1])

    def _judge(self, prompts: list[list[dict]], latents: torch.Tensor, number: int) -> list[torch.Tensor]:
        """Mean square error `[B]` of the model's prediction of noise on the latents, by prompt."""
        sampling = self.model.sampling
        totals = [torch.zeros(latents.shape[0], device=latents.device) for _ in prompts]
        for level, percent in enumerate(NOISE_LEVELS):
            sigma = torch.full((latents.shape[0],), sampling.percent_to_sigma(percent)).to(latents)
            random = generator(self.seed, Stream.RANGE_JUDGEMENT, number, level)
            noise = torch.randn(latents.shape, generator=random).to(latents)
            x = sampling.noise_scaling(sigma.reshape(-1, 1, 1, 1), noise, latents)
            scale = prediction_scale(sampling, sigma)
            for total, denoised in zip(totals, self.model.predict(prompts, x, sigma), strict=True):
                total += mean_square((denoised - latents) * scale)
        return [total / len(NOISE_LEVELS) for total in totals]


def crossing(bound: float, before: tuple[float, float], after: tuple[float, float]) -> float:
    """The strength at which the loss is `bound`, on a straight line between two strengths and their losses."""
    (strength, loss), (next_strength, next_loss) = before, after
    way = (bound - loss) / (next_loss - loss)
    return strength + way * (next_strength - strength)


def _best(losses: Losses) -> float:
    return min(loss.mean().item() for loss in losses)
