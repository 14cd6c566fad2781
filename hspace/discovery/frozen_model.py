"""The frozen model of a discovery: predictions under its prompts, plain or with a vector added to h."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.k_diffusion.sampling
import comfy.model_base
import comfy.samplers
import torch

from .. import comfy_compat as compat
from .addition import Addition
from .prompt_pairs import PreparedPairs

_MAY_READ_ONE_LEVEL = (
    "patches",
    "patches_replace",
    "wrappers",
    "model_function_wrapper",
    "sampler_calc_cond_batch_function",
)


@dataclass
class FrozenModel:
    """A model and the prompts of a discovery. Nothing in it is learnt.

    Args:
        model: BaseModel that samples, inside `gradients.gradients_through`.
        prompts: as ComfyUI has prepared them.
        options: model options of the run: the user's patches and attention.

    Attributes:
        evaluations: U-Net evaluations so far, one image each; backward passes are counted by who makes them.
    """

    model: comfy.model_base.BaseModel
    prompts: PreparedPairs
    options: dict
    evaluations: int = 0

    def __post_init__(self):
        self.options = compat.on_one_device(self.options)
        self._addition = Addition({})
        self._steered_options = self._options_with(self._patch)

    @property
    def sampling(self):
        """ComfyUI's `model_sampling`: noise schedule and parametrisation."""
        return self.model.model_sampling

    @property
    def may_mix_noise_levels(self) -> bool:
        """True where images of a batch may have noise levels of their own.

        ComfyUI reads the first image's level for prompts with a time range, and so do patches such as Deep Shrink.
        """
        patches = self.options.get("transformer_options", {})
        return self.prompts.share_a_batch and not any(
            value for options in (self.options, patches) for key, value in options.items() if key in _MAY_READ_ONE_LEVEL
        )

    def predict(
        self, prompts: list[list[dict]], x: torch.Tensor, sigma: torch.Tensor, add: Addition | None = None
    ) -> list[torch.Tensor]:
        """Denoised x0, float32 `[B, C, h, w]`, under each of several prepared prompts.

        Args:
            prompts: as `PreparedPairs` gives them.
            x: states `[B, C, h, w]`.
            sigma: `[B]`.
            add: what to add to h.
        """
        self.evaluations += x.shape[0] * len(prompts)
        if add is None:
            return compat.denoise(self.model, prompts, x, sigma, self.options)
        self._addition = add
        return compat.denoise(self.model, prompts, x, sigma, self._steered_options)

    def guided(
        self, prompts: list[dict], x: torch.Tensor, sigma: torch.Tensor, cfg: float, add: Addition | None = None
    ) -> torch.Tensor:
        """Denoised x0 `[B, C, h, w]` by classifier-free guidance, the conditional half steered by `add`."""
        (text,) = self.predict([prompts], x, sigma, add)
        return self.guide(text, x, sigma, cfg)

    @torch.no_grad()
    def guide(self, text: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor, cfg: float) -> torch.Tensor:
        """Classifier-free guidance from a conditional prediction that is there already."""
        (empty,) = self.predict([self.prompts.empty], x, sigma)
        return empty + cfg * (text - empty)

    @torch.no_grad()
    def h_rms(
        self, prompts: list[dict], x: torch.Tensor, sigma: torch.Tensor, sites: Collection[int]
    ) -> dict[int, float]:
        """Root mean square of h under prepared prompts, by site: what learning rates are relative to.

        One forward pass, which is not counted among the evaluations.
        """
        hs: dict[int, list[torch.Tensor]] = {site: [] for site in sites}

        def note_h(h, hsp, transformer_options):
            part, site = transformer_options["block"]
            if part == compat.DECODER and site in hs:
                hs[site].append(h.flatten())
            return h, hsp

        compat.denoise(self.model, [prompts], x, sigma, self._options_with(note_h))
        return {site: torch.cat(parts).float().square().mean().sqrt().item() for site, parts in hs.items()}

    @contextmanager
    def uncounted(self):
        """Leave the evaluations of the block out of `evaluations`: they are for people to look at."""
        before = self.evaluations
        try:
            yield
        finally:
            self.evaluations = before

    def sample(
        self, prompts: list[dict], start: torch.Tensor, sigmas: torch.Tensor, cfg: float, add: Addition | None = None
    ) -> torch.Tensor:
        """Latents `[B, C, h, w]` as the sampler sees them, by DPM++ 2M under prepared prompts, steered by `add`.

        Args:
            start: the first states, as `pure_noise` gives them.
            sigmas: the schedule, on the device of `start`.
        """

        def denoiser(x, sigma, **_):
            return self.guided(prompts, x, sigma, cfg, add)

        return comfy.k_diffusion.sampling.sample_dpmpp_2m(denoiser, start, sigmas, disable=True)

    def sigmas(self, steps: int) -> torch.Tensor:
        """A "normal" sampling schedule of that many steps, float32 `[steps + 1]` on the CPU."""
        return comfy.samplers.calculate_sigmas(self.sampling, "normal", steps)

    def pure_noise(self, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The first state of a sampling run that begins at this sigma, from standard normal noise."""
        return self.sampling.noise_scaling(sigma, noise, torch.zeros_like(noise), True)

    def _options_with(self, patch) -> dict:
        """The run's options with `patch` first among the output-block patches, and attention that has a backward."""
        options = compat.clone_options(self.options)
        compat.use_differentiable_attention(options["transformer_options"])
        compat.put_first(options["transformer_options"], patch)
        return options

    def _patch(self, h, hsp, transformer_options):
        part, site = transformer_options["block"]
        return (self._addition.added_to(h, site) if part == compat.DECODER else h), hsp
