"""What a running discovery shows: the same seeds drawn without the vector and with it as it is so far."""

from __future__ import annotations

import comfy.k_diffusion.sampling
import comfy.samplers
import torch

from . import comfy_compat as compat
from . import conditioning as cond

IMAGES, STEPS, CFG = 2, 5, 4.0


class Comparison:
    """Draws `IMAGES` images of fixed seeds under the base prompts, in `STEPS` coarse steps, every so many steps.

    The first one is of unsteered images only, since a vector of one step would show nothing else.

    It draws its noise from a generator of its own and leaves the vector alone, so a discovery finds the same bits with
    it and without. One comparison costs `IMAGES * STEPS * 2` U-Net evaluations, which are not counted as discovery's.
    """

    def __init__(self, learner, shape: tuple[int, int, int], every: int):
        self.learner, self.every = learner, every
        sampling = learner.model.model_sampling
        self.sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS).to(learner.vector.device)
        noise = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(learner.settings.seed))
        start = sampling.noise_scaling(self.sigmas[0].cpu(), noise, torch.zeros_like(noise), True)
        self.start = start.to(self.sigmas.device)
        prompts = learner.conds["base"]
        several = cond.mergeable(prompts)
        self.base = cond.rows(prompts, [i % len(prompts) if several else 0 for i in range(IMAGES)])
        self.plain: torch.Tensor | None = None
        self.latest: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        """One latent `[1, C, 2 H, IMAGES * W]`: unsteered above, steered below."""
        with torch.no_grad():
            if self.plain is None:
                self.plain = self._draw(steered=False)
                self.latest = torch.cat([_row(self.plain)] * 2, dim=-2)
            if self.learner.step % self.every == 0 or self.learner.finished:
                self.latest = torch.cat([_row(self.plain), _row(self._draw(steered=True))], dim=-2)
        return self.latest

    def _draw(self, steered: bool) -> torch.Tensor:
        learner = self.learner
        options = learner.student_options if steered else learner.options

        def denoiser(x, sigma, **_):
            (text,) = compat.denoise(learner.model, [self.base], x, sigma, options)
            (empty,) = compat.denoise(learner.model, [learner.conds["unconditional"]], x, sigma, learner.options)
            return empty + CFG * (text - empty)

        return comfy.k_diffusion.sampling.sample_dpmpp_2m(denoiser, self.start, self.sigmas, disable=True)


def _row(latents: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(latents[:, None]), dim=-1)
