"""The cost of steering per sampling step, in time and memory.

A full-width SD 1.5 U-Net with random weights, and the demo model with a batch: unsteered, steered by a vector of all
sites, by six of them, by one with responses, and by a map in the bottleneck, in turn, in bfloat16 where it is fast.
Writes steering_overhead.md. Peak memory is that of torch's allocator, on CUDA or on the CPU, in steps of their own that
are not timed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import numpy as np
import scipy.stats
import torch

from demo.loader import fast_dtype
from demo.training.common import initialise
from hspace import Sum, Vector, apply_steering
from hspace.bottleneck import find_bottleneck
from hspace.concepts import Response
from hspace.discovery.streams import generator
from hspace_library.evaluation.statistics import BOOTSTRAPS

from .common import Bench, Stream, device_name, dtype_name, markdown_table, write_report

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
    "use_checkpoint": False,
}


RANK = 16


class TimedGuider(comfy.samplers.CFGGuider):
    """CFG that notes the seconds of each step."""

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--size", type=int, action="append", help="may be repeated; default: 256 and 512")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--steps", type=int, default=0, help="of a run of SD 1.5; default: 20 on a GPU, else 1")


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    steps = options.steps or (20 if torch.cuda.is_available() else 1)
    with torch.inference_mode():
        rows = measure("demo model", Bench().sampling_parts[0], 128, 16, options.repeats, 10)
        model = sd15()
        for size in options.size or [256, 512]:
            rows += measure("SD 1.5", model, size, 1, options.repeats, steps)
    columns = ["model", "images", "steered by", "plain, s", "steered, s", "ratio of medians", "extra peak memory"]
    text = (
        f"# Overhead of steering on {device_name()}\n\n"
        f"SD 1.5 at full width with random weights, and the demo model; CFG, {dtype_name(fast_dtype())}. Medians of "
        f"{options.repeats} runs of {steps} step(s) (of ten on the demo model), in seconds a step, taken in turn, and "
        "95 % bootstrap intervals of their ratio. The first step of a run also works out what is to be added in all of "
        "them.\n\n" + markdown_table(columns, rows)
    )
    print(text)
    write_report("steering_overhead", text)


def sd15() -> comfy.model_patcher.ModelPatcher:
    """A ModelPatcher around the whole U-Net of SD 1.5."""
    config = comfy.supported_models.SD15(SD15)
    config.set_inference_dtype(fast_dtype(), None)
    model = config.get_model({})
    initialise(model.diffusion_model)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=torch.device("cpu"))


def measure(name: str, model, size: int, batch: int, repeats: int, steps: int) -> list[list[str]]:
    """Rows of the table for one model, image size and batch: a vector of all sites, six of them, one with responses,
    and a map of h.
    """
    bottleneck, random = find_bottleneck(model), generator(0, Stream.OVERHEAD)
    family, map_size = bottleneck.family, bottleneck.map_size(size // 8, size // 8)
    vectors = []
    for number in range(6):
        tensors = {site: torch.randn(c, 1, 1, generator=random) for site, (c, _) in enumerate(bottleneck.decoder)}
        vectors.append(Vector(tensors.pop(0), str(number), family, decoder=tensors))
    responses = {
        site: Response(torch.randn(c, RANK, generator=random), torch.randn(RANK, c, generator=random) / c**0.5)
        for site, (c, _) in enumerate(bottleneck.decoder)
    }
    concepts = {
        "1 vector, all sites": vectors[0],
        "6 vectors, all sites": Sum(tuple((1.0, vector) for vector in vectors)),
        f"1 vector with responses of rank {RANK}": replace(vectors[0], responses=responses),
        "1 map in the bottleneck": Vector(torch.randn(bottleneck.channels, *map_size, generator=random), "map", family),
    }
    guiders = [TimedGuider(model), *(TimedGuider(apply_steering(model, c, 1.0)) for c in concepts.values())]
    orders = itertools.cycle(itertools.permutations(guiders))
    for order in itertools.islice(orders, repeats + 1):
        # In turn and each round in another order, so that a drift of the machine hits all alike.
        for guider in order:
            _sample(guider, size, batch, steps)
    plain_seconds, *steered_seconds = (
        np.reshape(guider.seconds[steps:], (-1, steps)).mean(1).tolist() for guider in guiders
    )
    plain_peak, *steered_peaks = (peak_bytes(partial(_sample, guider, size, batch, 1)) for guider in guiders)
    rows = []
    for steered_by, seconds, peak in zip(concepts, steered_seconds, steered_peaks, strict=True):
        plain, steered, extra = statistics.median(plain_seconds), statistics.median(seconds), peak - plain_peak
        low, high = ratio_interval(plain_seconds, seconds)
        memory = f"{extra / 2**20:.2f} MB, {100 * extra / model.model_size():.3f} % of the U-Net"
        ratio = f"{steered / plain:.4f} ({low:.4f} to {high:.4f})"
        rows.append([name, f"{batch} of {size} x {size}", steered_by, f"{plain:.3f}", f"{steered:.3f}", ratio, memory])
        print(rows[-1], flush=True)
    return rows


def ratio_interval(plain: list[float], steered: list[float]) -> tuple[float, float]:
    """95 % interval of the ratio of medians, by bootstrap of the rounds (each has a step of both)."""

    def ratio(plain, steered, axis) -> np.ndarray:
        return np.median(steered, axis=axis) / np.median(plain, axis=axis)

    interval = scipy.stats.bootstrap(
        (plain, steered),
        ratio,
        n_resamples=BOOTSTRAPS,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def peak_bytes(action: Callable[[], object]) -> int:
    """Most bytes that torch had allocated at a time during `action`, above what there was before."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def in_turn(measurements: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Results of each measurement, taken in turn and in alternating order, so that a drift hits all alike."""
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(repeats):
        for name in list(measurements) if turn % 2 else list(measurements)[::-1]:
            values[name].append(measurements[name]())
    return values


def timed(action: Callable[[], object]) -> float:
    """The seconds that an action takes."""
    synchronise()
    began = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - began


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _sample(guider: TimedGuider, size: int, batch: int, steps: int) -> None:
    width = guider.model_patcher.model.model_config.unet_config["context_dim"]
    conditioning = [[torch.zeros(1, 77, width), {}]]
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(4.0)
    latent = torch.zeros(batch, 4, size // 8, size // 8)
    sigmas = torch.tensor([*torch.linspace(10.0, 1.0, steps).tolist(), 0.0])
    guider.sample(torch.randn_like(latent), latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)
