"""Run ComfyUI's frozen weights with gradients, without copying or changing them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint

from ..comfy_compat import map_cond


@contextmanager
def gradients_through(module: torch.nn.Module):
    """Leave inference mode and make `module` usable in an autograd graph, every parameter frozen.

    Nodes run inside `torch.inference_mode()` and loaders create weights there; autograd refuses such tensors. For the
    time of the block each parameter and buffer is swapped for an alias of the same storage made outside inference
    mode. Nothing is copied, and the originals come back whatever happens inside.
    """
    originals: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for owner in module.modules():
                for tensors in cast(list[dict[str, Any]], [owner._parameters, owner._buffers]):
                    for name, tensor in tensors.items():
                        if tensor is None or type(tensor.data) is not torch.Tensor:
                            continue
                        originals.append((tensors, name, tensor))
                        alias = _alias(tensor)
                        frozen = torch.nn.Parameter(alias, requires_grad=False)
                        tensors[name] = frozen if tensors is owner._parameters else alias
            yield
        finally:
            for tensors, name, tensor in originals:
                tensors[name] = tensor


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
