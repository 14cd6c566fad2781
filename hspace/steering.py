"""Add a concept in h-space while any sampler runs: `h + strength * v` at the entrance of the U-Net decoder.

Three parts:

- a `SAMPLER_SAMPLE` wrapper resolves, when sampling starts, what the run needs (`SteeringRun`): the sigma window of the
  model that really samples, the uuids of the guider's positive conditionings, each image's coefficients;
- an `APPLY_MODEL` wrapper, which runs outside of the compiled U-Net, resolves what one call needs (`SteeringCall`): which
  chunks of its batch are steered, and the finished tensor to add;
- an output-block patch, gated on the first decoder block, adds that tensor and does nothing else.
"""

from __future__ import annotations

from functools import partial

import comfy.patcher_extension
import torch

from .comfy_compat import compute_dtype, put_first
from .concept import Concept
from .site import HSpaceSite, find_site
from .steering_patch import BRANCHES, CALLS_KEY, SteeringPatch

OPTIONS_KEY = "hspace_steering"


def apply_steering(
    model,
    concept: Concept,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    branch: str = "positive",
    mask: torch.Tensor | None = None,
):
    """A clone of `model` (ModelPatcher) that is steered; the model itself is left as it was.

    Strength 0, or a concept of no directions, gives a plain clone, so its images equal those of no node bit for bit.

    Raises:
        ValueError: no h-space, a concept of another model family, or an empty window.
    """
    site = find_site(model)
    check_fits(concept, site)
    if branch not in BRANCHES:
        raise ValueError(f"apply_to: '{branch}' is not one of {', '.join(BRANCHES)}.")
    check_window(start_percent, end_percent)
    steered = model.clone()
    if strength == 0 or not concept.directions():
        return steered
    patch = SteeringPatch(concept, strength, site, (start_percent, end_percent), branch, mask)
    put_first(steered.model_options["transformer_options"], patch)
    wrappers, key = comfy.patcher_extension.WrappersMP, f"{OPTIONS_KEY}.{patch.key}"
    steered.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, key, partial(_resolve_run, patch))
    steered.add_wrapper_with_key(wrappers.APPLY_MODEL, key, partial(_resolve_call, patch))
    return steered


def check_window(start_percent: float, end_percent: float) -> None:
    """Raise ValueError where a window holds nothing."""
    if not start_percent < end_percent:
        raise ValueError(
            f"start_percent ({start_percent:g}) must be below end_percent ({end_percent:g}); nothing is steered otherwise."
        )


def check_fits(concept: Concept, site: HSpaceSite) -> None:
    """Raise ValueError where a concept was found on another model family or width."""
    for direction in concept.directions():
        if direction.family != site.family or direction.tensor.shape[0] != site.channels:
            raise ValueError(
                f"concept: '{direction.name}' was found on {direction.family} with {direction.tensor.shape[0]} "
                f"channels, but the model is {site.family} with {site.channels}. Use a vector of the same base model, "
                "or discover it again on this one."
            )


def _resolve_run(patch: SteeringPatch, executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    """`SAMPLER_SAMPLE` wrapper: leave the run's resolved state where the calls find it."""
    options = extra_args["model_options"].setdefault("transformer_options", {})
    options.setdefault(OPTIONS_KEY, {})[patch.key] = patch.start_run(guider, noise)
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def _resolve_call(patch: SteeringPatch, executor, x, t, c_concat=None, c_crossattn=None, control=None,
                  transformer_options=None, **kwargs):  # fmt: skip
    """`APPLY_MODEL` wrapper of a steered model: its calls find what they need in the run's resolved state."""
    run = (transformer_options or {}).get(OPTIONS_KEY, {}).get(patch.key)
    if run is None:  # called outside of sampling; the patch says so
        return executor(x, t, c_concat, c_crossattn, control, transformer_options or {}, **kwargs)
    resolve = partial(patch.start_call, run)
    return leave_call(patch, resolve, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def leave_call(patch: SteeringPatch, resolve, executor, x, t, c_concat, c_crossattn, control, transformer_options,
               **kwargs):  # fmt: skip
    """`APPLY_MODEL` wrapper: leave `resolve(x, dtype, transformer_options)` where the patch finds it.

    It runs outside of a compiled U-Net; `dtype` is what the U-Net computes in.
    """
    call = resolve(x, compute_dtype(executor.class_obj), transformer_options)
    transformer_options.setdefault(CALLS_KEY, {})[patch.key] = call
    return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
