"""Builders for the tests: tiny real U-Nets in ModelPatchers, conditionings, calls of node classes, a live server."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import hspace_steering
import torch
from comfy.ldm.flux.model import FluxParams

from demo.training.common import initialise
from hspace.bottleneck import find_bottleneck
from hspace.concepts import Provenance, Response, Vector
from hspace.discovery import Observer

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 16
SMALL_CONSTANTS = {"batch_size": 2, "sample_count": 4, "width": 128, "height": 128, "response_rank": 0}
"""Settings of a short discovery of constants alone; steps and sites are the test's own."""
TINY_UNET = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0],
    "context_dim": CONTEXT,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}

FLUX = {
    "image_model": "flux",
    "guidance_embed": False,
    "in_channels": 16,
    "depth": 1,
    "depth_single_blocks": 1,
    "hidden_size": 64,
    "num_heads": 2,
    "axes_dim": [8, 12, 12],
    "context_in_dim": 16,
    "vec_in_dim": 16,
    "mlp_ratio": 1.0,
    "theta": 10000,
    "qkv_bias": True,
    "out_channels": 16,
    "patch_size": 2,
    **{field.name: [] for field in fields(FluxParams) if field.name == "txt_ids_dims"},  # ComfyUI 0.3.75 has none
}
"""A small Flux, which has no U-Net."""


class TinyModel(comfy.supported_models.SD15):
    """An SD 1.5 of 0.4 M parameters: h-space `[64, 8, 8]` for 16 x 16 latents."""

    unet_config = TINY_UNET
    unet_extra_config: ClassVar[dict] = {"num_heads": 4, "num_head_channels": -1}


class TinyVPrediction(TinyModel):
    """The same with v-prediction."""

    def model_type(self, state_dict, prefix=""):
        import comfy.model_base

        return comfy.model_base.ModelType.V_PREDICTION


def tiny_model(seed: int = 0, dtype=torch.float32, config_class=TinyModel) -> comfy.model_patcher.ModelPatcher:
    """A ModelPatcher around a real UNetModel with random weights, created inside inference mode as loaders do."""
    with torch.inference_mode():
        torch.manual_seed(seed)
        config = config_class(config_class.unet_config)
        config.set_inference_dtype(dtype, torch.float32 if dtype in (torch.float16, torch.bfloat16) else None)
        if config.manual_cast_dtype is not None:
            config.custom_operations = comfy.ops.manual_cast
        model = config.get_model({})
        initialise(model.diffusion_model)
        model.diffusion_model.to(dtype)
        model.eval()
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def conditioning(seed: int, tokens: int = 7, entries: int = 1) -> list:
    """CONDITIONING of random embeddings."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            torch.randn(1, tokens, CONTEXT, generator=generator),
            {"pooled_output": torch.randn(1, CONTEXT, generator=generator)},
        ]
        for _ in range(entries)
    ]


def sample(
    model,
    positive=None,
    negative=None,
    *,
    batch=1,
    steps=4,
    cfg=4.0,
    seed=0,
    size=16,
    sampler="euler",
    scheduler="normal",
) -> torch.Tensor:
    """Latents of stock sampling inside inference mode."""
    with torch.inference_mode():
        latent = torch.zeros(batch, 4, size, size)
        noise = comfy.sample.prepare_noise(latent, seed)
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            positive or conditioning(1),
            negative or conditioning(2),
            latent,
            disable_pbar=True,
            seed=seed,
        )


def random_vector(shape=(64, 8, 8), name="test", family="TinyModel", seed=0, **provenance):
    """A random vector that fits the tiny model; further arguments are texts of its provenance."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Vector(tensor, name, family, Provenance.from_strings(provenance))


def responsive_vector(model, seed=0, name="test", rank=3, sites=None, constants=1.0) -> Vector:
    """A random value a channel at each site of a model, and a random response there, or at some of them only."""
    bottleneck, generator = find_bottleneck(model), torch.Generator().manual_seed(seed)
    tensors, responses = {}, {}
    for site, (channels, _) in enumerate(bottleneck.decoder):
        tensors[site] = constants * torch.randn(channels, 1, 1, generator=generator)
        up, down = (torch.randn(channels, rank, generator=generator) for _ in range(2))
        if sites is None or site in sites:
            responses[site] = Response(0.3 * up, down.T / channels**0.5)
    return Vector(tensors.pop(0), name, bottleneck.family, decoder=tensors, responses=responses)


def record_h(model) -> tuple[comfy.model_patcher.ModelPatcher, list[dict]]:
    """A clone that records h at the decoder's entrance, after every patch before it."""
    recorded: list[dict] = []

    def patch(h, hsp, transformer_options):
        if transformer_options["block"] == ("output", 0):
            recorded.append(
                {
                    "h": h.clone(),
                    "cond_or_uncond": list(transformer_options["cond_or_uncond"]),
                    "sigma": transformer_options["sigmas"][0].item(),
                    "runs": transformer_options.get("hspace_steering", {}),
                }
            )
        return h, hsp

    clone = model.clone()
    clone.set_model_output_block_patch(patch)
    return clone, recorded


def node_classes() -> dict:
    """Node classes of the pack by id."""
    extension = asyncio.run(hspace_steering.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def run_stock_node(node, **inputs) -> tuple:
    """The outputs of a stock node of the newer kind, what is not given at its default."""
    defaults = {item.id: item.default for item in node.define_schema().inputs if hasattr(item, "default")}
    return node.execute(**{**defaults, **inputs}).result


def run_node(node_id: str, **inputs):
    """The outputs of a node, its widgets at their defaults unless given, inside inference mode as ComfyUI runs it."""
    node = node_classes()[node_id]
    widgets = {
        widget.id: widget.default
        for widget in node.GET_SCHEMA().inputs
        if not widget.optional and getattr(widget, "default", None) is not None
    }
    prepared = node.PREPARE_CLASS_CLONE({})
    given = {**widgets, **inputs}
    if node.GET_SCHEMA().is_input_list:
        given = {key: [value] for key, value in given.items()}
    with torch.inference_mode():
        return prepared.execute(**given).result


def weights_hash(model) -> str:
    """Of all weights of a ModelPatcher's model."""
    digest = hashlib.sha256()
    for key, value in sorted(model.model.state_dict().items()):
        digest.update(key.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Notes(Observer):
    """Keeps what a discovery says to its user."""

    def __init__(self):
        self.texts: list[str] = []

    def note(self, text):
        self.texts.append(text)


class Stop(Observer):
    """Presses cancel after a step, and keeps the vector so far."""

    def __init__(self, step):
        self.last, self.unfinished = step, None

    def step(self, progress):
        if progress.step == self.last:
            comfy.model_management.interrupt_current_processing()

    def stopped(self, vector):
        assert self.unfinished is None
        self.unfinished = vector
