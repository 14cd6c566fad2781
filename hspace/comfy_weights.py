"""What ComfyUI's layers compute with, where that is not what their parameters hold.

A layer may cast its weights at every call, take them from a cache that an earlier run has filled, stream them through a
buffer that the next layer overwrites, apply a LoRA to them, or dequantise them. For sampling it is all the same. A
backward pass comes after the other layers, and then only weights of the layer's own are still what they were.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.utils
import torch

from .comfy_compat import UnetStructure, compute_dtype, uncompiled

LONGEST_HEADER = 16 * 2**20
"""Bytes of the description of a checkpoint's tensors; SDXL's has half a MiB."""
NAMES = ("weight", "bias")
_CACHES = ("_v", "_v_weight", "_v_bias", "_v_signature", "_prefetch")
_CHANGES = ("weight_function", "bias_function", "weight_lowvram_function", "bias_lowvram_function")
_CASTS = ("comfy_cast_weights", "comfy_force_cast_weights")
"""Layers of scaled fp8 and the like quantise their input too, unless they are told to cast; that has no gradient."""


def decoder_layers(model) -> list[torch.nn.Module]:
    """The residual and attention layers of the decoder of a BaseModel."""
    unet: Any = uncompiled(model.diffusion_model)
    return [layer for block in unet.output_blocks for layer in block]


def layers_after_bottleneck(model) -> list[torch.nn.Module]:
    """The layers of a BaseModel that gradients of h pass: all that have weights from the decoder's entrance on."""
    unet = cast(Any, uncompiled(model.diffusion_model))
    return [layer for part in (unet.output_blocks, unet.out) for layer in part.modules() if layer._parameters]


def computes_with_its_own(layer: torch.nn.Module, device: torch.device) -> bool:
    """True where what a layer computes with on a device is its parameters, or made of them at every call by a cast."""
    if not hasattr(layer, "comfy_cast_weights"):
        return True
    if any(vars(layer).get(name) is not None for name in _CACHES) or any(getattr(layer, n, None) for n in _CHANGES):
        return False
    # A mere cast to another dtype makes new weights at every call. That of fp8 does not everywhere: see `--fast`.
    return all(is_plain(t) and t.dtype.itemsize > 1 and t.device == device for t in _weights(layer).values())


def is_plain(tensor: torch.Tensor) -> bool:
    """False for quantised and other kinds of tensors, and for those whose storage nobody may see (mkldnn, DirectML)."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and type(tensor.data) is torch.Tensor and _stored(tensor)


def _stored(tensor: torch.Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return tensor.layout == torch.strided


def memory_of_own_weights(model, device: torch.device) -> int:
    """Bytes that it takes to give every layer of `layers_after_bottleneck` weights of its own."""
    dtype = compute_dtype(model)
    foreign = [x for x in layers_after_bottleneck(model) if not computes_with_its_own(x, device)]
    return dtype.itemsize * sum(math.prod(t.shape) for layer in foreign for t in _weights(layer).values())


def give_own_weights(layer: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
    """Make a layer compute with copies of the weights that it would compute with anyway.

    Yields the dicts of the layer with their content before each is changed, so that the caller can put it back.
    """
    copies = _copies(layer, dtype, device)
    yield layer._parameters, dict(layer._parameters)
    for name, tensor in copies.items():
        layer._parameters[name] = torch.nn.Parameter(tensor, requires_grad=False)
    yield vars(layer), dict(vars(layer))
    for name in _CACHES:
        vars(layer).pop(name, None)
    for name in _CHANGES:
        if getattr(layer, name, None):
            setattr(layer, name, [])
    for name in _CASTS:
        setattr(layer, name, True)


def _weights(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t for name in NAMES if (t := layer._parameters.get(name)) is not None}


def _copies(layer: Any, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """Copies of a layer's weights as it computes with them, plain tensors by name."""
    own = getattr(layer, "cast_bias_weight", None)  # layers of GGUF files
    if own is not None:
        return _plain_copies(own(dtype=dtype, device=device, bias_dtype=dtype), dtype)
    cast_weights: Any = comfy.ops.cast_bias_weight
    weight, bias, stream = cast_weights(layer, dtype=dtype, device=device, bias_dtype=dtype, offloadable=True)
    try:
        return _plain_copies((weight, bias), dtype)
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _plain_copies(tensors, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: _plain_copy(t, dtype) for name, t in zip(NAMES, tensors, strict=True) if t is not None}


def _plain_copy(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    tensor = tensor.data
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    elif type(tensor) is not torch.Tensor:
        tensor = tensor.dequantize()
    return tensor.to(dtype).clone()


def make_room(patcher, memory: float) -> None:
    """Free so many bytes on the device of a ModelPatcher that is loaded: other models go first, then parts of it."""
    device, management = patcher.load_device, comfy.model_management
    if management.is_device_cpu(device):
        return
    own = [loaded for loaded in management.current_loaded_models if patcher.is_clone(loaded.model)]
    management.free_memory(memory, device, keep_loaded=own)
    missing = memory - management.get_free_memory(device)
    if missing > 0 and not getattr(patcher, "is_dynamic", bool)():  # a dynamic model makes room by itself
        patcher.partially_unload(patcher.offload_device, missing)


def drop_stream_buffers() -> None:
    """Let ComfyUI make its buffers for streamed weights anew: those made in inference mode are read-only outside it."""
    getattr(comfy.model_management, "reset_cast_buffers", bool)()


def set_conds(guider, positive: list, negative: list) -> None:
    """`set_conds` of a guider.

    Raises:
        ValueError: a prompt has hooks, and ComfyUI cannot load the model again without dynamic VRAM, as it needs to.
    """
    try:
        guider.set_conds(positive, negative)
    except RuntimeError as error:
        if "non-dynamic delegate" not in str(error):
            raise
        raise ValueError(
            "model: a prompt carries hooks, for which ComfyUI has to load the model a second time, and its loader does "
            "not say how. Load it with Load Checkpoint or Load Diffusion Model, take the hooks off the prompts, or "
            "start ComfyUI with --disable-dynamic-vram."
        ) from error


def unet_structure_in_file(path: Path | str) -> UnetStructure | None:
    """The structure of the model in a checkpoint, from the names and shapes in its header alone, without `decoder`.

    None where it cannot be told: no safetensors, diffusers' names, or a kind of model that this ComfyUI does not know.
    """
    try:
        header = comfy.utils.safetensors_header(str(path), max_size=LONGEST_HEADER)
        entries = json.loads(header or "{}")
        shapes = {key: tuple(entry["shape"]) for key, entry in entries.items() if key != "__metadata__"}
        weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
        if not any(key.startswith(prefix) for key in weights):
            prefix = ""
        config = comfy.model_detection.model_config_from_unet(weights, prefix)
    except Exception as error:  # the file may be anything, and kinds of models are told apart in ways of their own
        logging.debug("[H-Space Steering] %s: the kind of model cannot be told: %s", path, error)
        return None
    if config is None:
        return None
    found = config.unet_config
    return UnetStructure(
        config_name=type(config).__name__,
        decoder=(),
        channel_mult=tuple(found.get("channel_mult") or ()),
        context_dim=found.get("context_dim"),
        transformer_depth=tuple(found.get("transformer_depth") or ()),
        transformer_depth_middle=found.get("transformer_depth_middle"),
        temporal=bool(found.get("use_temporal_attention")),
    )
