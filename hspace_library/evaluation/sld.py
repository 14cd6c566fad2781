"""Safe latent diffusion, the alternative that safety is mostly compared with."""

from __future__ import annotations

import comfy.samplers
import torch

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
