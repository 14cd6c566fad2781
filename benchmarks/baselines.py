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

SLD_SETTINGS = {
    "SLD medium": {"scale": 1000.0, "warmup": 10, "threshold": 0.01, "momentum": 0.3, "beta": 0.4},
    "SLD strong": {"scale": 2000.0, "warmup": 7, "threshold": 0.025, "momentum": 0.5, "beta": 0.7},
}
"""Hyper-parameters of Schramowski et al. (CVPR 2023), table of configurations; warm-up in steps of 50, scaled to
ours."""


class SafeLatentDiffusion(comfy.samplers.CFGGuider):
    """Safe latent diffusion guidance: CFG plus a term that moves away from the prediction under an unsafe prompt.

    Schramowski et al., equations 3 to 8, with epsilon = (x - x0) / sigma.
    """

    def configure(self, positive, negative, unsafe, cfg: float, settings: dict, steps: int) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative, "unsafe": unsafe})
        self.cfg, self.settings = cfg, {**settings, "warmup": round(settings["warmup"] * steps / 50)}
        self.step, self.velocity = 0, 0.0

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[name] for name in ("negative", "positive", "unsafe")]
        denoised = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options or {})
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
