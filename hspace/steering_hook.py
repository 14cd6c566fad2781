"""Steer one conditioning of several, through ComfyUI's hooks, instead of the model.

ComfyUI runs conditionings that carry different hooks in separate calls of the U-Net, and hands each call the options
that its hooks add. So whatever a call has in its batch is steered, and nothing has to be told apart.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial

import comfy.hooks
import comfy.patcher_extension

from .comfy_compat import put_first
from .concept import Concept
from .site import find_site
from .steering import OPTIONS_KEY, check_fits, check_window, leave_call
from .steering_patch import SteeringPatch, SteeringRun


def steer_conditioning(
    conditioning: list,
    concept: Concept,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    keyframes: comfy.hooks.HookKeyframeGroup | None = None,
) -> list:
    """CONDITIONING that is steered wherever it is sampled; strength 0 and the empty concept return it as it is.

    Args:
        keyframes: factors on the strength over the sampling schedule.

    Raises:
        ValueError: an empty window. A concept of another model family raises when sampling starts, as the model is not
            known before.
    """
    check_window(start_percent, end_percent)
    if strength == 0 or not concept.directions():
        return conditioning
    hook = SteeringHook(concept, strength, (start_percent, end_percent))
    if keyframes is not None:
        hook.hook_keyframe = keyframes.clone()
    hooks = comfy.hooks.HookGroup()
    hooks.add(hook)
    return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks)


class SteeringHook(comfy.hooks.TransformerOptionsHook):
    """Adds a `SteeringPatch`, and what resolves its calls, to the options of the calls of hooked conditionings."""

    def __init__(self, concept: Concept | None = None, strength: float = 1.0, window: tuple[float, float] = (0.0, 1.0)):
        super().__init__({}, comfy.hooks.EnumHookScope.HookedOnly)
        self.concept, self.concept_strength, self.window = concept, strength, window
        self.resolve = None

    def clone(self):
        """As `Hook.clone`, which calls the class without arguments."""
        clone = super().clone()
        clone.concept, clone.concept_strength, clone.window = self.concept, self.concept_strength, self.window
        return clone

    def reset(self):
        """ComfyUI calls this when a sampling run starts."""
        super().reset()
        self.resolve = None

    def add_hook_patches(self, model, model_options: dict, target_dict: dict, registered) -> bool:
        """Called once a run, before it samples: register, and watch over the conditionings of the run."""
        if not super().add_hook_patches(model, model_options, target_dict, registered):
            return False
        hooked: set[tuple[str, uuid.UUID]] = set()
        kinds = comfy.patcher_extension.WrappersMP
        wrappers = model_options["transformer_options"].setdefault("wrappers", {})
        for kind, wrapper in ((kinds.OUTER_SAMPLE, _note_hooked), (kinds.SAMPLER_SAMPLE, _unhook_copies)):
            wrappers.setdefault(kind, {})[f"{OPTIONS_KEY}.{id(self)}"] = [partial(wrapper, self, hooked)]
        return True

    def on_apply_hooks(self, model, transformer_options: dict) -> None:
        """Called before each call of the U-Net with hooked conditionings. `model` is the ModelPatcher that samples."""
        if self.resolve is None:
            self.resolve = _CallResolver(self, model)
        put_first(transformer_options, self.resolve.patch)
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        wrappers = transformer_options.setdefault("wrappers", {}).setdefault(kind, {})
        wrappers[f"{OPTIONS_KEY}.{self.resolve.patch.key}"] = [partial(leave_call, self.resolve.patch, self.resolve)]


def _note_hooked(hook: SteeringHook, hooked: set, executor, *args, **kwargs):
    """`OUTER_SAMPLE` wrapper: which conditionings carry the hook, before ComfyUI makes copies of them."""
    hooked.update((name, cond["uuid"]) for name, conds in executor.class_obj.conds.items() for cond in conds
                  if _carries(cond, hook))  # fmt: skip
    return executor(*args, **kwargs)


def _unhook_copies(hook: SteeringHook, hooked: set, executor, guider, *args, **kwargs):
    """`SAMPLER_SAMPLE` wrapper: take the hook off copies.

    Where one half of CFG has an area, ComfyUI gives the other half a copy of that conditioning, hooks and all.
    """
    for name, conds in guider.conds.items():
        for cond in conds:
            if _carries(cond, hook) and (name, cond["uuid"]) not in hooked:
                rest = cond["hooks"].clone()
                rest.remove(hook)
                cond["hooks"] = rest if len(rest) else None
    return executor(guider, *args, **kwargs)


def _carries(cond: dict, hook: SteeringHook) -> bool:
    hooks = cond.get("hooks")
    return hooks is not None and hooks.contains(hook)


class _CallResolver:
    """What the calls of one sampling run share; called with x and the options of one of them."""

    def __init__(self, hook: SteeringHook, model):
        site = find_site(model)
        check_fits(hook.concept, site)
        self.hook, self.sampling = hook, model.get_model_object("model_sampling")
        self.patch = SteeringPatch(hook.concept, hook.concept_strength, site, hook.window, "both")
        self.runs: dict[tuple[int, ...], SteeringRun] = {}

    def __call__(self, x, dtype, transformer_options: dict):
        images = x.shape[0] // len(transformer_options["cond_or_uncond"])
        latent = (images, x.shape[-2], x.shape[-1])
        if latent not in self.runs:
            start, end = (self.sampling.percent_to_sigma(percent) for percent in self.hook.window)
            coefficients = self.hook.concept.coefficients(images) * self.hook.concept_strength
            self.runs[latent] = SteeringRun(start, end, None, {}, latent, coefficients)
        call = self.patch.start_call(self.runs[latent], x, dtype, self._without_windows(transformer_options))
        if self.hook.strength == 1 or call is None:
            return call
        factor = x.new_tensor(self.hook.strength, dtype=dtype)
        return replace(call, active=factor if call.active is None else factor * call.active)

    def _without_windows(self, transformer_options: dict) -> dict:
        """Options of a call as if it had the whole batch, which a hook cannot know; refused where that matters."""
        if transformer_options.get("context_window") is None:
            return transformer_options
        if not self.hook.concept.same_for_all:
            raise ValueError(
                "concept: gives each image its own share, and context windows show the model a part of the batch at a "
                "time. Steer all images alike, or use Apply H-Space Steering."
            )
        return {**transformer_options, "context_window": None}
