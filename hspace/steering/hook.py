"""Steer one conditioning of several, through ComfyUI's hooks, instead of the model.

ComfyUI runs conditionings that carry different hooks in separate calls of the U-Net, and hands each call the options
that its hooks add. So everything in a call's batch is steered alike.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import comfy.hooks
import comfy.patcher_extension
import torch

from ..bottleneck import find_bottleneck
from ..comfy_compat import carries_hook, put_first, remove_hook, set_wrapper
from ..concepts import NOTHING, Concept, check_finite
from .curve import checked_curve
from .patch import RUNS_KEY, SteeringPatch, check_window, warn_if_it_never_ran
from .state import SteeringCall, SteeringRun


def steer_conditioning(
    conditioning: list,
    concept: Concept,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    keyframes: comfy.hooks.HookKeyframeGroup | None = None,
    curve: Sequence[float] = (),
) -> list:
    """CONDITIONING that is steered wherever it is sampled; strength 0 and the empty concept return it as it is.

    Args:
        concept: what to add. One of another model family raises when sampling starts: the model is not known before.
        strength: factor on every coefficient; negative steers away.
        start_percent, end_percent: window of sampling in [0, 1], 0 the noisiest.
        keyframes: factors on the strength over the sampling schedule.
        curve: factors on the strength, evenly spaced over the window and linear between them.

    Raises:
        ValueError: an empty window, or numbers that are not finite.
    """
    check_finite("strength", strength)
    check_window(start_percent, end_percent)
    factors = checked_curve(curve)
    if strength == 0 or not concept.vectors():
        return conditioning
    hook = SteeringHook(concept, strength, (start_percent, end_percent), factors)
    if keyframes is not None:
        hook.hook_keyframe = keyframes.clone()
    hooks = comfy.hooks.HookGroup()
    hooks.add(hook)
    return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks)


NOT_SAMPLED: tuple[torch.Tensor, int | None] = (torch.zeros(1, 1, 1, 1), None)


class SteeringHook(comfy.hooks.TransformerOptionsHook):
    """Adds a `SteeringPatch`, and the wrapper of its calls, to the options of the calls of hooked conditionings.

    Args:
        concept, strength, window, curve: as in `SteeringPatch`.
    """

    def __init__(
        self,
        concept: Concept = NOTHING,
        strength: float = 1.0,
        window: tuple[float, float] = (0.0, 1.0),
        curve: tuple[float, ...] = (),
    ):
        super().__init__({}, comfy.hooks.EnumHookScope.HookedOnly)
        self.concept, self.concept_strength, self.window, self.curve = concept, strength, window, curve
        self.patch: _HookedPatch | None = None
        self.sampled: tuple[torch.Tensor, int | None] = NOT_SAMPLED

    def clone(self):
        """As `Hook.clone`, which calls the class without arguments."""
        clone = super().clone()
        clone.concept, clone.concept_strength = self.concept, self.concept_strength
        clone.window, clone.curve = self.window, self.curve
        return clone

    def reset(self):
        """ComfyUI calls this when a sampling run starts."""
        super().reset()
        self.patch = None

    def add_hook_patches(self, model, model_options: dict, target_dict: dict, registered) -> bool:
        """Called once a run, before it samples: register, and watch over the conditionings of the run."""
        if not super().add_hook_patches(model, model_options, target_dict, registered):
            return False
        hooked: set[tuple[str, uuid.UUID]] = set()
        kinds, key = comfy.patcher_extension.WrappersMP, f"{RUNS_KEY}.{id(self)}"
        options = model_options["transformer_options"]
        set_wrapper(options, kinds.OUTER_SAMPLE, key, partial(_note_hooked, self, hooked))
        set_wrapper(options, kinds.SAMPLER_SAMPLE, key, partial(_around_run, self, hooked))
        return True

    def on_apply_hooks(self, model, transformer_options: dict) -> None:
        """Called before each call of the U-Net with hooked conditionings. `model` is the ModelPatcher that samples."""
        if self.patch is None:
            self.patch = _HookedPatch(self, model)
        put_first(transformer_options, self.patch)
        kind, key = comfy.patcher_extension.WrappersMP.APPLY_MODEL, f"{RUNS_KEY}.{self.patch.key}"
        set_wrapper(transformer_options, kind, key, self.patch.around_call)


class _HookedPatch(SteeringPatch):
    """The patch of a hook in one sampling run, which it learns of by its calls: the run begins with the first of a
    size.
    """

    def __init__(self, hook: SteeringHook, model):
        bottleneck = find_bottleneck(model)
        bottleneck.check_fits(hook.concept)
        super().__init__(hook.concept, hook.concept_strength, bottleneck, hook.window, "both", curve=hook.curve)
        self.hook = hook
        noise, seed = hook.sampled
        self.run = self.start_run(model.get_model_object("model_sampling"), noise, seed, None, {})

    def run_of_call(self, x: torch.Tensor, transformer_options: dict) -> SteeringRun:
        return self.run

    def start_call(self, run, x, dtype, transformer_options, embeddings) -> SteeringCall | None:
        """As for a whole model, times the hook's keyframe."""
        call = super().start_call(run, x, dtype, transformer_options, embeddings)
        if self.hook.strength == 1 or call is None:
            return call
        factor = x.new_tensor(self.hook.strength, dtype=dtype)
        return replace(call, active=factor if call.active is None else factor * call.active)


def _note_hooked(hook: SteeringHook, hooked: set, executor, *args, **kwargs):
    """`OUTER_SAMPLE` wrapper: note which conditionings carry the hook, before ComfyUI makes copies of them."""
    hooked.update(
        (name, cond["uuid"])
        for name, conds in executor.class_obj.conds.items()
        for cond in conds
        if carries_hook(cond, hook)
    )
    return executor(*args, **kwargs)


def _around_run(
    hook: SteeringHook, hooked: set, executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs
):
    """`SAMPLER_SAMPLE` wrapper: note the noise, whose images are counted, and take the hook off copies.

    Where one half of CFG has an area, ComfyUI gives the other half a copy of that conditioning, hooks and all.
    """
    for name, conds in guider.conds.items():
        for cond in conds:
            if carries_hook(cond, hook) and (name, cond["uuid"]) not in hooked:
                remove_hook(cond, hook)
    hook.sampled = noise, extra_args.get("seed")
    try:
        samples = executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    finally:
        hook.sampled, patch, hook.patch = NOT_SAMPLED, hook.patch, None
    if patch is not None:
        warn_if_it_never_ran(patch.run)
    return samples
