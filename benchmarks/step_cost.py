"""What a step of discovery costs, in time and memory, against a plain forward pass: SD 1.5 at full width, random weights.

`run_module.py benchmarks.step_cost` writes benchmarks/results/step_cost.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import comfy.model_management
import comfy.supported_models
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..hspace import conditioning as cond
from ..hspace import discovery
from ..hspace.autograd import recomputing
from ..hspace.comfy_compat import decoder_layers, differentiable_attention
from ..hspace.learner import Learner
from ..hspace.objective import mean_square
from ..hspace.settings import DiscoverySettings
from .common import RESULTS, markdown_table
from .steering_overhead import SD15, peak_bytes, sd15, synchronise

SDXL = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4), "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_head_channels": 64,
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "num_classes": "sequential",
    "adm_in_channels": 2816, "legacy": False, "use_temporal_attention": False, "use_checkpoint": False,
}  # fmt: skip
CARDS = {"8 GB (RTX 3070)": 40.6, "12 GB (RTX 3060)": 25.6, "24 GB (RTX 4090)": 165.2}
"""Peak of dense FP16 matrix products with FP32 accumulation, in TFLOP/s (NVIDIA's GA102 and AD102 white papers; RTX 3060:
twice its FP32 peak, as for the other cards of its generation)."""
USED = 0.4
"""Share of that peak which the estimate takes U-Nets to reach in batches."""
EVALUATIONS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows, memory = [], {}
    model = sd15()
    for batch in (1, 2):
        measured = measure(model, options.size, batch, options.repeats)
        rows += table_rows(measured, batch, options.size, model.model_size())
        memory[batch] = measured
    where = comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device())
    text = (
        f"# A step of discovery on {where}\n\n"
        f"SD 1.5 at full width with random weights, {options.size} x {options.size}, bfloat16. Medians of {options.repeats} passes each, "
        "taken in turn. *Plain forward* is one evaluation without gradients, as inference makes them; *step* is what a vector "
        "pays for beyond them: the steered forward, the backward pass through the decoder, and Adam. *Default step* also has "
        "the teacher (two prompts) and the unconditional half of the roll-out. Peak memory with the weights of the U-Net and, "
        "in brackets, without.\n\n"
        + markdown_table(["images", "pass", "seconds", "of a plain forward", "peak memory", "of inference's"], rows)
        + estimate(memory)
    )
    print(text)
    (RESULTS / "step_cost.md").write_text(text)


def measure(model, size: int, batch: int, repeats: int) -> dict[str, tuple[float, int]]:
    """Median seconds and peak bytes above the weights of each kind of pass, measured in turn inside a discovery."""
    found: dict[str, tuple[float, int]] = {}

    def learn(learner: Learner, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = learner.model.model_sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
        sigma = sigmas[0].expand(batch)
        base = cond.rows(learner.conds["base"], [0] * batch)
        target = torch.zeros_like(x)

        def plain() -> None:
            with torch.no_grad():
                learner.denoise([base], x, sigma)

        def step() -> None:
            with torch.enable_grad():
                student = learner.denoise([base], x, sigma, steered=True)[0]
                learner.descend(mean_square(student - target))

        def checkpointed() -> None:
            with recomputing(decoder_layers(learner.model)):
                step()

        def default_step() -> None:
            learner.teach(x, sigma, [0] * batch)
            with torch.no_grad():
                learner.denoise([learner.conds["unconditional"]], x, sigma)

        passes = {
            "plain forward": plain, "step": step, "step, checkpointed": checkpointed, "default step": default_step,
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for turn in range(repeats + 1):
            names = list(passes) if turn % 2 else list(passes)[::-1]
            for name in names:
                seconds[name].append(_timed(passes[name]))
        found.update({name: (statistics.median(seconds[name][1:]), peak_bytes(run)) for name, run in passes.items()})
        learner.losses += [0.0] * learner.settings.steps  # finished
        return x

    width = model.model.model_config.unet_config["context_dim"]
    prompts = [[[torch.full((1, 77, width), value), {}]] for value in (0.1, 0.2)]
    settings = DiscoverySettings("cost", batch_size=batch, width=size, height=size, steps=10_000)
    with torch.inference_mode(), patch.object(discovery, "roll_out", learn):
        discovery.discover(model, *prompts, settings)
    return found


def _timed(run: Callable[[], None]) -> float:
    synchronise()
    began = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - began


def table_rows(measured: dict[str, tuple[float, int]], batch: int, size: int, weights: int) -> list[list[str]]:
    """Rows of the table for one batch size."""
    plain_seconds, plain_peak = measured["plain forward"]
    return [
        [f"{batch} of {size} x {size}", name, f"{seconds:.2f}", f"{seconds / plain_seconds:.2f}",
         f"{(weights + peak) / 2**20:,.0f} MB ({peak / 2**20:,.0f})",
         f"{(weights + peak) / (weights + plain_peak):.2f} ({peak / plain_peak:.2f})"]
        for name, (seconds, peak) in measured.items()
    ]  # fmt: skip


def estimate(memory: dict[int, dict[str, tuple[float, int]]]) -> str:
    """Seconds and memory on cards that nobody measured, from FLOPs and from the memory measured above."""
    models = {
        "SD 1.5, 512 x 512": (comfy.supported_models.SD15, SD15, 64),
        "SDXL, 1024 x 1024": (comfy.supported_models.SDXL, SDXL, 128),
    }
    rows = []
    sd15_pixels = 64 * 64
    for name, (family, config, side) in models.items():
        flops, weights = _flops(family, config, side)
        for kind in ("step", "step, checkpointed"):
            # An image's share of the peak, scaled to this model by what its layers write a pixel: the width is the same.
            share = (memory[2][kind][1] - memory[1][kind][1]) * side * side / sd15_pixels
            seconds = [f"{EVALUATIONS * flops / (USED * peak * 1e12):.0f} s" for peak in CARDS.values()]
            rows.append([name, kind, f"{flops / 1e12:.2f} TFLOP", f"{(weights + share) / 2**30:.1f} GB",
                         f"{(weights + 8 * share) / 2**30:.1f} GB", *(seconds if kind == "step" else ["+ a third"] * 3)])  # fmt: skip
    return (
        "\n## An estimate for cards that were not measured\n\n"
        f"{EVALUATIONS:,} evaluations (a backward pass through the decoder counts as one) of the operations that torch counts "
        f"for the U-Net, at {100 * USED:.0f} % of the card's peak; memory is the U-Net's weights in half precision and, for "
        "each image of the batch, what an image more adds above, by number of pixels. Not measured: take it as an order of "
        "magnitude.\n\n"
        + markdown_table(
            [
                "model",
                "pass",
                "an evaluation",
                "memory, batch 1",
                "memory, batch 8",
                *(f"discovery, {card}" for card in CARDS),
            ],
            rows,
        )
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
                torch.zeros(1, 4, side, side, dtype=torch.float16), torch.zeros(1),
                context=torch.zeros(1, 77, config["context_dim"], dtype=torch.float16),
                y=None if adm is None else torch.zeros(1, adm, dtype=torch.float16),
                transformer_options={"optimized_attention_override": differentiable_attention},
            )  # fmt: skip
    return counter.get_total_flops(), sum(p.numel() * 2 for p in unet.parameters())


if __name__ == "__main__":
    main()
