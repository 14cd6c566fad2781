"""Pairs of conditionings: matching them, and evaluating a different one for every image of a batch."""

from __future__ import annotations

import torch

from .comfy_compat import concatenate_conds, map_cond

_WHOLE_IMAGE_ONLY = ("area", "mask", "default")
_NOT_MERGEABLE = ("control", "gligen", "hooks", "start_percent", "end_percent", "timestep_start", "timestep_end")


def check_pairs(concept: list, base: list, avoid: list | None) -> None:
    """Raise ValueError unless concept and base pair up one to one, and avoid has one prompt or as many."""
    for name, conditioning in (("concept", concept), ("base", base), ("avoid", avoid)):
        if conditioning is None:
            continue
        if not conditioning:
            raise ValueError(f"{name}: the conditioning is empty; connect a CLIP Text Encode.")
        for _, options in conditioning:
            bound = [key for key in _WHOLE_IMAGE_ONLY if options.get(key) is not None]
            if bound:
                raise ValueError(
                    f"{name}: a conditioning with {bound[0]} acts on a part of the image only; discovery needs "
                    "prompts for whole images. Connect the prompt without it."
                )
    if len(concept) != len(base):
        raise ValueError(
            f"concept holds {len(concept)} prompts and base {len(base)}; they pair up one to one. Combine as many "
            "prompts into one as into the other, in the same order."
        )
    if avoid is not None and len(avoid) not in (1, len(base)):
        raise ValueError(f"avoid holds {len(avoid)} prompts; give one, or one for each of the {len(base)} pairs.")


def same_prompts(a: list, b: list) -> bool:
    """Whether two conditionings are one and the same, as where one node is connected to both inputs."""
    return len(a) == len(b) and all(x[0] is y[0] and x[1] is y[1] for x, y in zip(a, b, strict=True))


def zeroed(conditioning: list) -> list:
    """The unconditional prompt of models without one at hand: every embedding zero, as stock ConditioningZeroOut."""
    out = []
    for embedding, options in conditioning[:1]:
        options = dict(options)
        for key in ("pooled_output", "conditioning_lyrics"):
            if options.get(key) is not None:
                options[key] = torch.zeros_like(options[key])
        out.append([torch.zeros_like(embedding), options])
    return out


def mergeable(conds: list[dict]) -> bool:
    """Whether prepared conds (as a guider holds them) can share one batch."""
    return all(cond.get(key) is None for cond in conds for key in _NOT_MERGEABLE)


def rows(conds: list[dict], indices: list[int]) -> list[dict]:
    """One prepared cond that gives image i of a batch `conds[indices[i]]`, as the list that a guider's branch is.

    Every tensor in `model_conds` gets a batch dimension of `len(indices)`, which ComfyUI maps to images one to one.
    """
    chosen = [conds[index] for index in indices]
    if len(set(indices)) == 1:
        return [chosen[0]]
    merged = dict(chosen[0])
    merged["model_conds"] = {
        key: _merge([cond["model_conds"][key] for cond in chosen]) for key in chosen[0]["model_conds"]
    }
    return [merged]


def _merge(entries: list):
    if not isinstance(entries[0].cond, torch.Tensor):
        return entries[0]
    return concatenate_conds([
        map_cond(entry, lambda cond, position=position: _row(cond, position)) for position, entry in enumerate(entries)
    ])  # fmt: skip


def _row(tensor: torch.Tensor, position: int) -> torch.Tensor:
    return tensor if tensor.shape[0] == 1 else tensor[position : position + 1]
