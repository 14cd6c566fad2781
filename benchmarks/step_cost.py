"""The cost of a step of discovery, in time and memory, against a plain forward pass.

SD 1.5 at full width with random weights. Writes step_cost.md.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from functools import partial

import comfy.supported_models
import torch
from torch.utils.flop_counter import FlopCounterMode

from demo.loader import fast_dtype
from hspace.comfy_compat import differentiable_attention
from hspace.comfy_weights import decoder_layers
from hspace.discovery import DISTILLED, DiscoverySettings, PromptPairs, discover
from hspace.discovery.distilled import roll_out_sigmas, teach
from hspace.discovery.gradients import recomputing
from hspace.discovery.objective import mean_square
from hspace.discovery.run import Run

from .common import device_name, dtype_name, markdown_table, write_report
from .steering_overhead import SD15, in_turn, peak_bytes, sd15, timed

SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4),
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "legacy": False,
    "use_temporal_attention": False,
    "use_checkpoint": False,
}
CARDS = {"8 GB (RTX 3070)": 40.6, "12 GB (RTX 3060)": 25.6, "24 GB (RTX 4090)": 165.2}
"""Peak of dense FP16 matrix products with FP32 accumulation, in TFLOP/s (NVIDIA's GA102 and AD102 white papers; RTX
3060: twice its FP32 peak, as for the other cards of its generation)."""
USED = 0.4
"""Share of that peak which the estimate takes U-Nets to reach in batches."""
EVALUATIONS = 5000

Cost = tuple[float, int]
"""Seconds, and peak bytes above the weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    model, size = sd15(), options.size
    costs = {batch: measure(model, size, batch, options.repeats) for batch in (1, 2)}
    rows = [row for batch, cost in costs.items() for row in table_rows(cost, batch, size, model.model_size())]
    text = (
        f"# A step of discovery on {device_name()}\n\n"
        f"SD 1.5 at full width with random weights, {size} x {size}, {dtype_name(fast_dtype())}. Medians of "
        f"{options.repeats} passes each, taken in turn. *Plain forward* is one evaluation without gradients, "
        "as inference makes them; *step* is what a vector pays for beyond them: the steered forward, the backward pass "
        "through the decoder, and Adam. *Default step* also has the teacher (two prompts) and the unconditional half "
        "of the roll-out. Peak memory with the weights of the U-Net and, in brackets, without.\n\n"
        + markdown_table(["images", "pass", "seconds", "of a plain forward", "peak memory", "of inference's"], rows)
        + estimate(costs)
    )
    print(text)
    write_report("step_cost", text)


def measure(model, size: int, batch: int, repeats: int) -> dict[str, Cost]:
    """The cost of each kind of pass, measured in turn inside a discovery."""
    costs: dict[str, Cost] = {}

    def states(run: Run, samples: list[torch.Tensor] | None) -> torch.Tensor:
        costs.update(_costs_of_passes(run, repeats))
        run.optimiser.losses += [0.0] * run.settings.steps  # the discovery is over
        return torch.zeros(run.shape)

    width = model.model.model_config.unet_config["context_dim"]
    concept, base = ([[torch.full((1, 77, width), value), {}]] for value in (0.1, 0.2))
    settings = DiscoverySettings("cost", batch_size=batch, width=size, height=size, steps=10_000)
    with torch.inference_mode():
        discover(model, PromptPairs(concept, base), settings, recipe=replace(DISTILLED, states=states))
    return costs


def _costs_of_passes(run: Run, repeats: int) -> dict[str, Cost]:
    """Medians by kind of pass; the first pass of each is a warm-up."""
    frozen, pairs = run.model, run.pairs(0)
    level = roll_out_sigmas(run).to(run.device)[0]
    x = frozen.pure_noise(torch.randn(run.shape, generator=torch.Generator().manual_seed(0)).to(run.device), level)
    sigma, prompts, target = level.expand(len(x)), frozen.prompts.prompts_of("base", pairs), torch.zeros_like(x)

    def plain() -> None:
        with torch.no_grad():
            frozen.predict([prompts], x, sigma)

    def step() -> None:
        with torch.enable_grad():
            (student,) = frozen.predict([prompts], x, sigma, add=run.optimiser.addition)
            run.optimiser.begin()
            run.backward(mean_square(student - target))
            run.optimiser.descend()

    def checkpointed() -> None:
        with recomputing(decoder_layers(frozen.model)):
            step()

    def default_step() -> None:
        frozen.guide(teach(run, x, sigma, pairs), x, sigma, 1.0)

    passes = {
        "plain forward": plain,
        "step": step,
        "step, checkpointed": checkpointed,
        "default step": default_step,
    }
    seconds = in_turn({name: partial(timed, action) for name, action in passes.items()}, repeats + 1)
    return {name: (statistics.median(seconds[name][1:]), peak_bytes(action)) for name, action in passes.items()}


def table_rows(costs: dict[str, Cost], batch: int, size: int, weights: int) -> list[list[str]]:
    """Rows of the table for one batch size."""
    plain_seconds, plain_peak = costs["plain forward"]
    return [
        [
            f"{batch} of {size} x {size}",
            name,
            f"{seconds:.2f}",
            f"{seconds / plain_seconds:.2f}",
            f"{(weights + peak) / 2**20:,.0f} MB ({peak / 2**20:,.0f})",
            f"{(weights + peak) / (weights + plain_peak):.2f} ({peak / plain_peak:.2f})",
        ]
        for name, (seconds, peak) in costs.items()
    ]


def estimate(costs: dict[int, dict[str, Cost]]) -> str:
    """Seconds and memory on cards that nobody measured, from FLOPs and from the memory measured above."""
    models = {
        "SD 1.5, 512 x 512": (comfy.supported_models.SD15, SD15, 64),
        "SDXL, 1024 x 1024": (comfy.supported_models.SDXL, SDXL, 128),
    }
    rows = []
    sd15_pixels = 64 * 64
    for name, (family, config, side) in models.items():
        flops, weights = _flops(family, config, side)
        on_cards = [f"{EVALUATIONS * flops / (USED * peak * 1e12):.0f} s" for peak in CARDS.values()]
        for kind, seconds in (("step", on_cards), ("step, checkpointed", ["+ a third"] * len(CARDS))):
            # An image's share of the peak, scaled by the number of pixels: the models' layers have the same width.
            share = (costs[2][kind][1] - costs[1][kind][1]) * side * side / sd15_pixels
            memory = [f"{(weights + batch * share) / 2**30:.1f} GB" for batch in (1, 8)]
            rows.append([name, kind, f"{flops / 1e12:.2f} TFLOP", *memory, *seconds])
    cards = [f"discovery, {card}" for card in CARDS]
    return (
        "\n## An estimate for cards that were not measured\n\n"
        f"{EVALUATIONS:,} evaluations (a backward pass through the decoder counts as one) of the operations that torch "
        f"counts for the U-Net, at {100 * USED:.0f} % of the card's peak; memory is the U-Net's weights in half "
        "precision and, for each image of the batch, what an image more adds above, by number of pixels. Not measured: "
        "take it as an order of magnitude.\n\n"
        + markdown_table(["model", "pass", "an evaluation", "memory, batch 1", "memory, batch 8", *cards], rows)
    )


def _flops(family, config: dict, side: int) -> tuple[float, int]:
    """Operations of one evaluation and bytes of the weights in half precision, without weights or computing."""
    device = torch.device("meta")
    with torch.device(device):
        settings = family(config)
        settings.set_inference_dtype(torch.float16, None)
        unet = settings.get_model({}, device=device).diffusion_model
        adm = config.get("adm_in_channels")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(
                torch.zeros(1, 4, side, side, dtype=torch.float16),
                torch.zeros(1),
                context=torch.zeros(1, 77, config["context_dim"], dtype=torch.float16),
                y=None if adm is None else torch.zeros(1, adm, dtype=torch.float16),
                transformer_options={"optimized_attention_override": differentiable_attention},
            )
    return counter.get_total_flops(), sum(p.numel() * 2 for p in unet.parameters())
