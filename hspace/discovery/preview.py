"""The preview of a running discovery: the same seeds without the vector, and with it as it is so far."""

from __future__ import annotations

import torch

from .addition import Addition
from .frozen_model import FrozenModel

IMAGES, STEPS, CFG = 2, 5, 4.0


class Preview:
    """`IMAGES` images of fixed seeds under the base prompts, in `STEPS` coarse steps, every so many optimiser steps.

    The first one shows unsteered images only, since a vector of one step would change nothing. It has a generator of
    its own and leaves the vector alone, so a discovery finds the same bits with it and without. One preview costs
    `IMAGES * STEPS * 2` evaluations, which are not counted.

    Args:
        model: to sample with.
        shape: of a latent, `[C, h, w]`.
        every: optimiser steps from one preview to the next.
        seed: of the images.
        device: of the model.
    """

    def __init__(self, model: FrozenModel, shape: tuple[int, ...], every: int, seed: int, device: torch.device):
        self.model, self.every = model, every
        self.sigmas = model.sigmas(STEPS).to(device)
        noise = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(seed))
        self.start = model.pure_noise(noise, self.sigmas[0].cpu()).to(device)
        pairs = [image % model.prompts.asked if model.prompts.share_a_batch else 0 for image in range(IMAGES)]
        self.prompts = model.prompts.prompts_of("base", pairs)
        self._plain: torch.Tensor | None = None
        self._latest = self.start

    def show(self, vector: Addition, step: int, last: bool) -> torch.Tensor:
        """One latent `[1, C, 2 h, IMAGES * w]`: unsteered above, steered below as of the last multiple of `every`.

        Args:
            vector: as it is after this step.
            step: number of the step.
            last: true for the last step, which is always shown.
        """
        with torch.no_grad(), self.model.uncounted():
            if self._plain is None:
                self._plain = self._sample(None)
                self._latest = torch.cat([self._plain] * 2, dim=-2)
            if step % self.every == 0 or last:
                self._latest = torch.cat([self._plain, self._sample(vector)], dim=-2)
        return self._latest

    def _sample(self, add: Addition | None) -> torch.Tensor:
        """The images side by side, `[1, C, h, IMAGES * w]`."""
        latents = self.model.sample(self.prompts, self.start, self.sigmas, CFG, add)
        return torch.cat(list(latents[:, None]), dim=-1)
