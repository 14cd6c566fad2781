"""Shared by the composition tests: every U-Net architecture at small width, conditionings, and recorded calls.

A model is built the way a checkpoint is loaded: a state dict of random weights, ComfyUI's own detection of the
architecture from it, ComfyUI's own configuration class, its `get_model` and its `load_model_weights`.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

import comfy.model_detection
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import AlphaBlender

from helpers import record_h
from hspace.concepts import Vector
from scripts.random_checkpoint import SD

PREFIX = "model.diffusion_model."
WINDOWS_OF_IMAGES = {
    "context_length": 2,
    "context_overlap": 1,
    "context_schedule": "standard_static",
    "dim": 0,
}
"""Inputs of Context Windows that show the model two images of a batch at a time."""
CPU = torch.device("cpu")

_SD1 = {**SD, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False}
_SD2 = {**SD, "context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True}
_VIDEO = {
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "video_kernel_size": [3, 1, 1],
}


def _xl(depth, output, middle, blocks=2, **changes):
    return {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [blocks] * 3,
        "transformer_depth": depth,
        "transformer_depth_output": output,
        "transformer_depth_middle": middle,
        "context_dim": 2048,
        "adm_in_channels": 2816,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        **changes,
    }


# name: (arguments of UNetModel, the width at which it is tested; heads of 64 channels need 64 where attention is on the
# outermost level)
ARCHITECTURES = {
    "SD 1.5": (_SD1, 32),
    "SD 1.5 inpainting": ({**_SD1, "in_channels": 9}, 32),
    "instruct-pix2pix": ({**_SD1, "in_channels": 8}, 32),
    "SD 2.1 v": (_SD2, 64),
    "SDXL": (_xl([0, 0, 2, 2, 10, 10], [0, 0, 0, 2, 2, 2, 10, 10, 10], 10), 32),
    "SDXL refiner": (
        {
            **SD,
            "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
            "context_dim": 1280,
            "adm_in_channels": 2560,
            "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
            "transformer_depth_middle": 4,
            "num_head_channels": 64,
            "use_linear_in_transformer": True,
        },
        32,
    ),
    "SSD-1B": (_xl([0, 0, 2, 2, 4, 4], [0, 0, 0, 1, 1, 2, 10, 4, 4], -1), 32),
    "Segmind Vega": (_xl([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2], -1), 32),
    "KOALA 700M": (_xl([0, 2, 5], [0, 0, 2, 2, 5, 5], -2, blocks=1), 32),
    "KOALA 1B": (_xl([0, 2, 6], [0, 0, 2, 2, 6, 6], 6, blocks=1), 32),
    "SDXS": (
        _xl(
            [0, 1, 1],
            [0, 0, 1, 1, 1, 1],
            -2,
            blocks=1,
            context_dim=768,
            adm_in_channels=None,
            use_linear_in_transformer=False,
        ),
        32,
    ),
    # Nobody's model: what the tests of combinations and samplers use, since it is three times as fast as SD 1.5.
    "small": (
        _xl(
            [1, 1, 1],
            [1] * 6,
            1,
            blocks=1,
            context_dim=768,
            adm_in_channels=None,
            num_head_channels=-1,
            num_heads=8,
            use_linear_in_transformer=False,
        ),
        32,
    ),
    "SVD": ({**_SD2, **_VIDEO, "in_channels": 8, "adm_in_channels": 768}, 64),
}


def make_unet(name: str, width: int, device=CPU, **changes) -> UNetModel:
    """A `UNetModel` of that architecture, not initialised; `changes` are of its arguments."""
    arguments = {
        "in_channels": 4,
        "out_channels": 4,
        "use_spatial_transformer": True,
        "legacy": False,
        **ARCHITECTURES[name][0],
        **changes,
    }
    if arguments.get("adm_in_channels"):
        arguments["num_classes"] = "sequential"
    return UNetModel(
        image_size=32, model_channels=width, device=device, operations=comfy.ops.disable_weight_init, **arguments
    )


@cache
def detect(name: str, **changes):
    """The configuration that ComfyUI detects in the state dict of the full-size model; takes no memory."""
    unet = make_unet(name, 384 if "refiner" in name else 320, "meta", **changes)
    weights = {PREFIX + key: value for key, value in unet.state_dict().items()}
    return comfy.model_detection.model_config_from_unet(weights, PREFIX)


def build(name: str, seed: int = 0, dtype=torch.float32, compute=torch.float32, extra=()):
    """A ModelPatcher of that architecture at its small width with random weights, loaded as a checkpoint is.

    Args:
        dtype: of the weights.
        compute: dtype that they are cast to for each layer.
        extra: keys of the checkpoint outside of the U-Net, e.g. ("v_pred", "ztsnr").
    """
    from demo.training.common import initialise

    with torch.inference_mode():
        torch.manual_seed(seed)
        unet = make_unet(name, ARCHITECTURES[name][1])
        initialise(unet)
        for module in unet.modules():  # those of video blocks
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.Conv3d.reset_parameters(module)
            if isinstance(module, AlphaBlender):
                module.mix_factor.fill_(0.3)
        if name == "SD 2.1 v":  # ComfyUI tells v-prediction from the spread of this bias
            unet.get_parameter("output_blocks.11.1.transformer_blocks.0.norm1.bias").normal_(0, 0.5)
        weights = {PREFIX + key: value.to(dtype) for key, value in unet.state_dict().items()}
        weights |= {key: torch.zeros(1) for key in extra}
        config = type(detect(name))(comfy.model_detection.detect_unet_config(weights, PREFIX))
        config.set_inference_dtype(dtype, None if dtype == compute else compute)
        model = config.get_model(weights, PREFIX)
        model.load_model_weights(weights, PREFIX)
        model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def conditioning(model, seed: int, tokens: int = 7, **values) -> list:
    """CONDITIONING of random embeddings that fit the model; `values` go into its dict."""
    generator = torch.Generator().manual_seed(seed)
    width = model.model.model_config.unet_config["context_dim"]
    pooled = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, tokens, width, generator=generator), {"pooled_output": pooled, **values}]]


def vector_for(model, seed: int = 0, size=(4, 4), name: str = "test", scale: float = 1.0) -> Vector:
    """A random direction for the model."""
    from hspace.bottleneck import find_bottleneck

    site = find_bottleneck(model)
    generator = torch.Generator().manual_seed(seed)
    return Vector(scale * torch.randn(site.channels, *size, generator=generator), name, site.family)


def sample(
    model,
    positive=None,
    negative=None,
    *,
    batch=1,
    steps=2,
    cfg=4.0,
    seed=0,
    size=(16, 16),
    sampler="euler",
    scheduler="normal",
    latent=None,
    **options,
) -> torch.Tensor:
    """Latents of stock sampling inside inference mode."""
    with torch.inference_mode():
        latent = torch.zeros(batch, 4, *size) if latent is None else latent
        noise = comfy.sample.prepare_noise(latent, seed)
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            positive or conditioning(model, 1),
            negative or conditioning(model, 2),
            latent,
            disable_pbar=True,
            seed=seed,
            **options,
        )


def calls(model, **options) -> list[dict]:
    """h at the decoder's entrance for every call of the U-Net, as `record_h` records it."""
    recording, recorded = record_h(model)
    sample(recording, **options)
    return recorded


def chunks(record: dict) -> list[tuple[int, torch.Tensor]]:
    """(CFG index, h) of each chunk of one recorded call."""
    indices = record["cond_or_uncond"]
    return list(zip(indices, record["h"].chunk(len(indices)), strict=True))


@contextmanager
def steered_by_hand(model, v, strength: float, positive: list | None = None, window=(float("inf"), 0.0)):
    """A clone steered without any of our code: a hook on the last layer of the middle block adds to h.

    Args:
        v: a `Vector`, or a tensor `[images, C, H, W]`.
        positive: the prompts to steer; chunks are told apart by the embeddings that they attend to. By default that of
            `sample`; `[]` goes by CFG index 0 instead.
        window: first and last sigma.
    """
    tensor = v.tensor[None] if isinstance(v, Vector) else v
    embeddings = [entry[0] for entry in (conditioning(model, 1) if positive is None else positive)]
    chosen: list[bool] = []

    def choose(apply_model, options):
        attended = options["c"]["c_crossattn"].chunk(len(options["cond_or_uncond"]))
        chosen[:] = [any(torch.equal(chunk[:1, : e.shape[1]], e) for e in embeddings) for chunk in attended]
        if not embeddings:
            chosen[:] = [index == 0 for index in options["cond_or_uncond"]]
        if not window[0] >= options["timestep"][0].item() >= window[1]:
            chosen[:] = [False] * len(chosen)
        return apply_model(options["input"], options["timestep"], **options["c"])

    def add(module, inputs, output):
        delta = strength * torch.nn.functional.interpolate(tensor, output.shape[2:], mode="bilinear")
        parts = output.chunk(len(chosen))
        return torch.cat([part + delta if steered else part for part, steered in zip(parts, chosen, strict=True)])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(choose)
    handle = clone.model.diffusion_model.middle_block[-1].register_forward_hook(add)
    try:
        yield clone
    finally:
        handle.remove()
