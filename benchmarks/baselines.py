"""What people would use instead: guidance away from an unsafe prompt, and vectors without optimisation."""

from __future__ import annotations

import comfy.samplers
import torch

from ..demo.generate import CFG, STEPS, decode, encode, noise_for
from ..hspace.concept import Direction
from ..hspace.site import find_site
from ..hspace.states import LEARN_UNTIL

SLD_SETTINGS = {
    "SLD medium": {"scale": 1000.0, "warmup": 10, "threshold": 0.01, "momentum": 0.3, "beta": 0.4},
    "SLD strong": {"scale": 2000.0, "warmup": 7, "threshold": 0.025, "momentum": 0.5, "beta": 0.7},
}
"""Hyper-parameters of Schramowski et al. (CVPR 2023), table of configurations; warm-up in steps of 50, scaled to ours."""


class SafeLatentDiffusion(comfy.samplers.CFGGuider):
    """Safe latent diffusion guidance: CFG plus a term that moves away from the prediction under an unsafe prompt.

    Schramowski et al., equations 3 to 8, with epsilon = (x - x0) / sigma.
    """

    def configure(self, positive, negative, unsafe, cfg: float, settings: dict, steps: int) -> None:
        self.set_conds(positive, negative)
        self.inner_set_conds({"positive": positive, "negative": negative, "unsafe": unsafe})
        self.cfg, self.settings = cfg, {**settings, "warmup": round(settings["warmup"] * steps / 50)}
        self.step, self.velocity = 0, 0.0

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        branches = [self.conds[name] for name in ("negative", "positive", "unsafe")]
        denoised = comfy.samplers.calc_cond_batch(self.inner_model, branches, x, timestep, model_options)
        sigma = timestep.reshape(-1, 1, 1, 1)
        empty, text, unsafe = ((x - x0) / sigma for x0 in denoised)
        s = self.settings
        difference = text - unsafe
        scale = torch.where(difference >= s["threshold"], 0.0, (difference.abs() * s["scale"]).clamp(max=1.0))
        away = (unsafe - empty) * scale + s["momentum"] * self.velocity
        self.velocity = s["beta"] * self.velocity + (1 - s["beta"]) * away
        guidance = text - empty
        if self.step >= s["warmup"]:
            guidance = guidance - away
        self.step += 1
        return x - sigma * (empty + self.cfg * guidance)


@torch.inference_mode()
def draw_with_sld(model, clip, vae, prompts: list[str], seeds: list[int], unsafe: str, settings: dict,
                  cfg: float = CFG, steps: int = STEPS) -> torch.Tensor:  # fmt: skip
    """IMAGE `[len(prompts), 128, 128, 3]`, as `generate.draw` makes them, with SLD."""
    guider = SafeLatentDiffusion(model)
    guider.configure(encode(clip, prompts), encode(clip, [""]), encode(clip, [unsafe]), cfg, settings, steps)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    noise = noise_for(seeds)
    latent = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas,
                           disable_pbar=True, seed=0)  # fmt: skip
    return decode(vae, latent)


class _HRecorder(comfy.samplers.CFGGuider):
    """CFG under the base prompt that also runs the concept prompt at each state, and sums up the difference of h."""

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        seen: dict[int, torch.Tensor] = {}

        def record(h, hsp, transformer_options):
            if transformer_options["block"] == ("output", 0):
                indices = transformer_options["cond_or_uncond"]
                seen.update(zip(indices, h.float().chunk(len(indices)), strict=True))
            return h, hsp

        options = {**model_options, "transformer_options": {**model_options["transformer_options"],
                                                            "patches": {"output_block_patch": [record]}}}  # fmt: skip
        branches = [self.conds[name] for name in ("positive", "negative", "concept")]
        base, empty, _ = comfy.samplers.calc_cond_batch(self.inner_model, branches, x, timestep, options)
        if timestep.max() >= self.until:
            self.differences.append((seen[2] - seen[0]).mean(0))
        return empty + CFG * (base - empty)


@torch.inference_mode()
def mean_difference(
    model, clip, concept: list[str], base: list[str], name: str, images: int = 64, seed: int = 0
) -> Direction:
    """The mean over sampling states of h under the concept prompts minus h under the base prompts; nothing is optimised.

    States are those of unsteered sampling under the base prompts, over the same share of the schedule as discovery's.
    """
    pairs = [i % len(base) for i in range(images)]
    guider = _HRecorder(model)
    guider.inner_set_conds({
        "positive": encode(clip, [base[i] for i in pairs]), "negative": encode(clip, [""]),
        "concept": encode(clip, [concept[i] for i in pairs]),
    })  # fmt: skip
    sampling = model.get_model_object("model_sampling")
    guider.differences, guider.until = [], sampling.percent_to_sigma(LEARN_UNTIL)
    noise = noise_for([seed * images + i for i in range(images)])
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas,
                  disable_pbar=True, seed=0)  # fmt: skip
    return Direction(torch.stack(guider.differences).mean(0).clone(), name, find_site(model).family)
