"""Alternatives that people would use: guidance away from an unsafe prompt, and vectors without optimisation."""

from __future__ import annotations

from collections.abc import Collection

import comfy.sample
import comfy.samplers
import torch

from demo.generate import CFG, STEPS, decode, encode, noise_for
from hspace import Vector
from hspace.bottleneck import find_bottleneck
from hspace.comfy_compat import DECODER, clone_options, put_first
from hspace.discovery.distilled import LEARN_UNTIL
from hspace_library.evaluation.sld import SafeLatentDiffusion


@torch.inference_mode()
def sample_with_sld(
    model,
    clip,
    vae,
    prompts: list[str],
    seeds: list[int],
    unsafe: str,
    settings: dict,
    cfg: float = CFG,
    steps: int = STEPS,
) -> torch.Tensor:
    """IMAGE `[len(prompts), 128, 128, 3]` by SLD, otherwise sampled as by `demo.generate.sample_images`."""
    guider = SafeLatentDiffusion(model)
    guider.configure(encode(clip, prompts), encode(clip, [""]), encode(clip, [unsafe]), cfg, settings, steps)
    return decode(vae, _run(guider, model, seeds, steps))


class _HRecorder(comfy.samplers.CFGGuider):
    """CFG under the base prompt that also runs the concept prompt at each state, and notes the difference of h."""

    def configure(self, positive, negative, concept, until: float, sites: Collection[int]) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative, "concept": concept})
        self.until, self.differences = until, {site: [] for site in sites}

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        h_of: dict[int, dict[int, torch.Tensor]] = {site: {} for site in self.differences}

        def record(h, hsp, transformer_options):
            part, site = transformer_options["block"]
            if part == DECODER and site in h_of:
                indices = transformer_options["cond_or_uncond"]
                h_of[site].update(zip(indices, h.float().chunk(len(indices)), strict=True))
            return h, hsp

        options = clone_options(model_options or {})
        put_first(options.setdefault("transformer_options", {}), record)
        conds = [self.conds[name] for name in ("positive", "negative", "concept")]
        base, empty, _ = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        if timestep.max() >= self.until:
            for site, by_cond in h_of.items():
                self.differences[site].append((by_cond[2] - by_cond[0]).mean(0))
        return empty + CFG * (base - empty)


@torch.inference_mode()
def mean_difference(
    model,
    clip,
    concept: list[str],
    base: list[str],
    name: str,
    images: int = 64,
    seed: int = 0,
    all_sites: bool = False,
) -> tuple[Vector, int]:
    """The mean over sampling states of h under the concept prompts minus h under the base prompts.

    States are those of unsteered sampling under the base prompts, over the same share of the schedule as discovery's.
    Nothing is optimised.

    Args:
        all_sites: one value a channel at every site, as discovery finds it by default, instead of a map of h-space.

    Returns:
        The vector, and the evaluations that it cost.
    """
    pairs = [i % len(base) for i in range(images)]
    bottleneck, guider = find_bottleneck(model), _HRecorder(model)
    guider.configure(
        encode(clip, [base[i] for i in pairs]),
        encode(clip, [""]),
        encode(clip, [concept[i] for i in pairs]),
        model.get_model_object("model_sampling").percent_to_sigma(LEARN_UNTIL),
        bottleneck.sites if all_sites else [0],
    )
    _run(guider, model, [seed * images + i for i in range(images)], STEPS)
    tensors = {site: torch.stack(found).mean(0).clone() for site, found in guider.differences.items()}
    if all_sites:
        tensors = {site: tensor.mean((1, 2), keepdim=True) for site, tensor in tensors.items()}
    return Vector(tensors.pop(0), name, bottleneck.family, decoder=tensors), images * STEPS * 3


def _run(guider: comfy.samplers.CFGGuider, model, seeds: list[int], steps: int) -> torch.Tensor:
    """Latents `[len(seeds), 4, 16, 16]`."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    noise, sampler = noise_for(seeds), comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
