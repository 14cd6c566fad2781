"""What steering costs per sampling step: a full-width SD 1.5 U-Net with random weights, and the demo model with a batch,
unsteered, steered by one direction and by six in turn, in bfloat16.

`run_module.py benchmarks.steering_overhead` writes benchmarks/results/steering_overhead.md. Peak memory is that of torch's
allocator, on CUDA or on the CPU, in steps of their own that are not timed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import numpy as np
import torch

from ..demo.training.common import initialise
from ..hspace.concept import Direction, Sum
from ..hspace.site import find_site
from ..hspace.steering import apply_steering
from .common import DRAWING_DTYPE, RESULTS, Bench, markdown_table
from .responsible import BOOTSTRAPS

SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "num_heads": 8, "num_head_channels": -1,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "use_temporal_attention": False,
    "adm_in_channels": None, "legacy": False, "use_checkpoint": False,
}  # fmt: skip


class TimedGuider(comfy.samplers.CFGGuider):
    """CFG that keeps the seconds of each step."""

    def __init__(self, model):
        super().__init__(model)
        self.seconds: list[float] = []

    def predict_noise(self, *args, **kwargs):
        synchronise()
        began = time.perf_counter()
        denoised = super().predict_noise(*args, **kwargs)
        synchronise()
        self.seconds.append(time.perf_counter() - began)
        return denoised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="default: 256 and 512")
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    with torch.inference_mode():
        model = sd15()
        rows = measure("demo model", Bench().drawing_parts[0], 128, 16, options.repeats, steps=10)
        for size in options.size or [256, 512]:
            rows += measure("SD 1.5", model, size, 1, options.repeats)
    where = comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device())
    text = (
        f"# Overhead of steering on {where}\n\n"
        "SD 1.5 at full width with random weights, and the demo model; CFG, bfloat16. Medians of "
        f"{options.repeats} runs of one step each (of ten on the demo model), taken in turn, and 95 % bootstrap intervals of "
        "their ratio. The first step of a run also works out what is to be added in all of them.\n\n"
        + markdown_table(
            ["model", "images", "steered by", "plain, s", "steered, s", "ratio of medians", "extra peak memory"], rows
        )
    )
    print(text)
    (RESULTS / "steering_overhead.md").write_text(text)


def sd15() -> comfy.model_patcher.ModelPatcher:
    """A ModelPatcher around the whole U-Net of SD 1.5."""
    config = comfy.supported_models.SD15(SD15)
    config.set_inference_dtype(DRAWING_DTYPE, None)
    model = config.get_model({})
    initialise(model.diffusion_model)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=torch.device("cpu"))


def measure(name: str, model, size: int, batch: int, repeats: int, steps: int = 1) -> list[list[str]]:
    """Rows of the table for one model, image size and batch: one direction, and a sum of six."""
    site = find_site(model)
    shape = (site.channels, *site.map_size(size // 8, size // 8))
    directions = [Direction(torch.randn(shape), str(number), site.family) for number in range(6)]
    concepts = {"1 direction": directions[0], "6 directions": Sum(tuple((1.0, d) for d in directions))}
    guiders = [TimedGuider(model), *(TimedGuider(apply_steering(model, c, 1.0)) for c in concepts.values())]
    orders = itertools.cycle(itertools.permutations(guiders))
    for order in itertools.islice(orders, repeats + 1):
        # In turn and each round in another order, so that a drift of the machine hits all alike.
        for guider in order:
            _sample(guider, size, batch, steps)
    plain_seconds, *steered_seconds = (guider.seconds[steps:] for guider in guiders)
    plain_peak, *steered_peaks = (peak_bytes(partial(_sample, guider, size, batch, 1)) for guider in guiders)
    rows = []
    for steered_by, seconds, peak in zip(concepts, steered_seconds, steered_peaks, strict=True):
        plain, steered = statistics.median(plain_seconds), statistics.median(seconds)
        low, high = ratio_interval(plain_seconds, seconds)
        extra = peak - plain_peak
        memory = f"{extra / 2**20:.2f} MB, {100 * extra / model.model_size():.3f} % of the U-Net"
        ratio = f"{steered / plain:.4f} ({low:.4f} to {high:.4f})"
        rows.append([name, f"{batch} of {size} x {size}", steered_by, f"{plain:.3f}", f"{steered:.3f}", ratio, memory])
        print(rows[-1], flush=True)
    return rows


def ratio_interval(plain: list[float], steered: list[float]) -> tuple[float, float]:
    """95 % interval of the ratio of medians, by bootstrap of the rounds (each has a step of both)."""
    rounds = np.random.default_rng(0).integers(len(plain), size=(BOOTSTRAPS, len(plain)))
    ratios = np.median(np.array(steered)[rounds], axis=1) / np.median(np.array(plain)[rounds], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def peak_bytes(run: Callable[[], None]) -> int:
    """Most bytes that torch had allocated at a time during `run`, above what there was before."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def _sample(guider: TimedGuider, size: int, batch: int, steps: int) -> None:
    width = guider.model_patcher.model.model_config.unet_config["context_dim"]
    conditioning = [[torch.zeros(1, 77, width), {}]]
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(4.0)
    latent = torch.zeros(batch, 4, size // 8, size // 8)
    sigmas = torch.tensor([*torch.linspace(10.0, 1.0, steps).tolist(), 0.0])
    guider.sample(torch.randn_like(latent), latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
