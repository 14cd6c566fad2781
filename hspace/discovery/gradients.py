"""Run ComfyUI's frozen weights with gradients, without copying or changing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint

from .. import comfy_weights as weights
from ..comfy_compat import compute_dtype, map_cond


@contextmanager
def gradients_through(model, shape: Sequence[int], device: torch.device, patcher):
    """Leave inference mode and make `model` usable in an autograd graph, every parameter frozen.

    Nodes run inside `torch.inference_mode()` and loaders create weights there; autograd refuses such tensors. For the
    time of the block each parameter and buffer is swapped for an alias of the same storage made outside inference
    mode. Layers that gradients pass, and that compute with something else than their parameters (see `comfy_weights`),
    get copies of what they compute with: the weights from the decoder on, once, in the dtype that the model computes
    in. Nothing else is copied, and everything is put back whatever happens inside.

    Args:
        model: BaseModel that samples on `device`.
        shape: of a batch of latents, `[B, C, h, w]`, for which memory is left beside the copies.
        patcher: ModelPatcher that `model` belongs to.

    Raises:
        ValueError: the block failed on weights of a kind that has no gradients; the message says what to load instead.
    """
    copied = weights.memory_of_own_weights(model, device)
    if copied:
        weights.make_room(patcher, copied + patcher.memory_required([2 * shape[0], *shape[1:]]))
    originals: list[tuple[dict[str, Any], dict[str, Any]]] = []
    kinds: set[str] = set()
    with torch.inference_mode(False), torch.enable_grad():
        weights.drop_stream_buffers()
        try:
            _alias_all(model, originals)
            kinds = _settle(model, device, originals)
            yield
        except RuntimeError as error:
            if kinds and "Inference tensors cannot be saved" in str(error):
                raise ValueError(
                    f"model: its weights are of a kind ({', '.join(sorted(kinds))}) that has no gradients. Discover on "
                    "the same model loaded from a safetensors file in fp16, bf16 or fp8; the vector fits this one too."
                ) from error
            raise
        finally:
            for content, before in reversed(originals):
                content.clear()
                content.update(before)


def _alias_all(module: torch.nn.Module, originals: list) -> None:
    for owner in module.modules():
        for tensors in cast(list[dict[str, Any]], [owner._parameters, owner._buffers]):
            originals.append((tensors, dict(tensors)))
            for name, tensor in tensors.items():
                if tensor is not None and weights.is_plain(tensor):
                    alias = _alias(tensor)
                    frozen = torch.nn.Parameter(alias, requires_grad=False) if tensors is owner._parameters else alias
                    vars(frozen).update(vars(tensor))  # ComfyUI notes on a parameter which dtype it is to be cast to
                    tensors[name] = frozen


def _settle(model, device: torch.device, originals: list) -> set[str]:
    """Give layers weights of their own where they need them; the kinds of tensors left that may have no gradients."""
    dtype, kinds = compute_dtype(model), set()
    for layer in weights.layers_after_bottleneck(model):
        if not weights.computes_with_its_own(layer, device):
            originals.extend(weights.give_own_weights(layer, dtype, device))
        kinds |= {type(t).__name__ for t in layer.parameters(recurse=False) if not weights.is_plain(t)}
    return kinds


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def recomputing(layers: Iterable[Any]):
    """For the time of the block these layers keep only their inputs for the backward pass, which computes the rest
    again.
    """
    patched: list[tuple[Any, object]] = []
    try:
        for layer in layers:
            patched.append((layer, vars(layer).get("forward")))
            layer.forward = _recomputed(layer.forward)
        yield
    finally:
        for layer, original in reversed(patched):
            if original is None:
                del layer.forward
            else:
                layer.forward = original


def _recomputed(forward):
    def run(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # transformer_options goes on to say which block runs; the second pass has to read what the first one read.
        args = [dict(value) if isinstance(value, dict) else value for value in args]
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def to_normal(value: Any) -> Any:
    """Copies of all inference tensors inside nested dicts, lists, tuples and comfy.conds objects; the rest as it is."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: to_normal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(to_normal(item) for item in value)
    return map_cond(value, to_normal)
