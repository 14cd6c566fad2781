"""The published algorithm: Li et al., CVPR 2024, section 3.2.

    min_c  E_{x0, t, eps}  || eps - eps_theta(x_t, t, y-; h + c) ||^2

x0 is sampled under the prompt y+ that names the concept, y- is the same prompt without it, t is uniform, and one c
serves all t. So c learns what y- left out. Amounts, start, sampler and order of images are those of the authors' code
(github.com/hangligit/InterpretDiffusion), but that the images do not go through JPEG files and the autoencoder.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from .objective import prediction_scale
from .samples import TIMESTEPS, SampleBatches

if TYPE_CHECKING:
    from .run import Run


def learn(run: Run, samples: list[torch.Tensor]) -> torch.Tensor:
    """Learn c from LATENT images of the concept, noised; returns the first of them.

    Args:
        samples: batches `[n, C, h, w]`; image i was sampled under prompt i modulo the number of pairs.
    """
    sampling, batches = run.model.sampling, SampleBatches(run, samples)
    while not run.finished:
        x0, pairs, random = batches.next()
        t = (torch.rand(len(x0), generator=random) * TIMESTEPS).floor()
        sigma = batches.sigma(1 - t / (TIMESTEPS - 1))
        eps = torch.randn(x0.shape, generator=random).to(x0)
        x_t = sampling.noise_scaling(sigma, eps, x0, False)
        run.report(run.step(partial(denoise, run, x0, x_t, sigma, pairs), len(x0)))
    return batches.first


def denoise(
    run: Run, x0: torch.Tensor, x_t: torch.Tensor, sigma: torch.Tensor, pairs: list[int], part: slice
) -> torch.Tensor:
    """The backward pass of a step on a part of the batch; returns what was predicted with c."""
    y_minus = run.model.prompts.prompts_of("base", pairs[part])
    with torch.enable_grad():
        (predicted,) = run.model.predict([y_minus], x_t[part], sigma[part], add=run.optimiser.addition)
        target = run.recipe.target({"x0": x0[part]}, run.settings.guidance)
        scale = prediction_scale(run.model.sampling, sigma[part])
        run.backward(run.recipe.error(predicted, target, predicted, scale))
    return predicted.detach()
