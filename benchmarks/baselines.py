"""Alternatives that people would use: guidance away from an unsafe prompt, and vectors without optimisation."""

from __future__ import annotations

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

    def configure(self, positive, negative, concept, until: float) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative, "concept": concept})
        self.until, self.differences = until, []

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        h_by_cond: dict[int, torch.Tensor] = {}

        def record(h, hsp, transformer_options):
            if transformer_options["block"] == (DECODER, 0):
                indices = transformer_options["cond_or_uncond"]
                h_by_cond.update(zip(indices, h.float().chunk(len(indices)), strict=True))
            return h, hsp

        options = clone_options(model_options or {})
        put_first(options.setdefault("transformer_options", {}), record)
        conds = [self.conds[name] for name in ("positive", "negative", "concept")]
        base, empty, _ = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        if timestep.max() >= self.until:
            self.differences.append((h_by_cond[2] - h_by_cond[0]).mean(0))
        return empty + CFG * (base - empty)


@torch.inference_mode()
def mean_difference(
    model, clip, concept: list[str], base: list[str], name: str, images: int = 64, seed: int = 0
) -> tuple[Vector, int]:
    """The mean over sampling states of h under the concept prompts minus h under the base prompts.

    States are those of unsteered sampling under the base prompts, over the same share of the schedule as discovery's.
    Nothing is optimised.

    Returns:
        The vector, and the evaluations that it cost.
    """
    pairs = [i % len(base) for i in range(images)]
    guider = _HRecorder(model)
    guider.configure(
        encode(clip, [base[i] for i in pairs]),
        encode(clip, [""]),
        encode(clip, [concept[i] for i in pairs]),
        model.get_model_object("model_sampling").percent_to_sigma(LEARN_UNTIL),
    )
    _run(guider, model, [seed * images + i for i in range(images)], STEPS)
    tensor = torch.stack(guider.differences).mean(0).clone()
    return Vector(tensor, name, find_bottleneck(model).family), images * STEPS * 3


def _run(guider: comfy.samplers.CFGGuider, model, seeds: list[int], steps: int) -> torch.Tensor:
    """Latents `[len(seeds), 4, 16, 16]`."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    noise, sampler = noise_for(seeds), comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
