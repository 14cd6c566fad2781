"""Add a concept in h-space while any sampler runs: `h + strength * v` at the entrance of the U-Net decoder.

Two parts, because a U-Net patch sees one model call and knows nothing of the sampling run around it:

- a `SAMPLER_SAMPLE` wrapper resolves, when sampling starts, what the run needs (the sigma window of the model that
  really samples, the uuids of the guider's positive conditionings) into the run's own transformer_options;
- an output-block patch, gated on the first decoder block, adds the vector to the images and CFG branches it is for.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import partial

import comfy.patcher_extension
import comfy.utils
import torch
import torch.nn.functional as F

from .concept import Concept
from .site import HSpaceSite, find_site

OPTIONS_KEY = "hspace_steering"
BRANCHES = ("positive", "negative", "both")


@dataclass
class SteeringRun:
    """What one sampling run needs; lives in that run's transformer_options and dies with it.

    Attributes:
        sigma_start, sigma_end: steer while `sigma_end <= sigma <= sigma_start`.
        positive: uuids of the conditionings under the guider's name "positive"; None where the guider has none.
        cache: deltas by batch, size, device and dtype.
    """

    sigma_start: float
    sigma_end: float
    positive: frozenset | None
    cache: dict = field(default_factory=dict)


class SteeringPatch:
    """An `output_block_patch` that adds a concept to h. Immutable; all state of a run is in its `SteeringRun`.

    Args:
        concept: what to add.
        strength: factor on every coefficient.
        window: (start, end) as fractions of sampling, 0 the noisiest.
        branch: "positive" (the conditional half of CFG, as in the paper), "negative" or "both".
        mask: `[B, H, W]` in [0, 1] at any size, or None; where it is 0 nothing is added.
    """

    def __init__(
        self,
        concept: Concept,
        strength: float,
        window: tuple[float, float] = (0.0, 1.0),
        branch: str = "positive",
        mask: torch.Tensor | None = None,
    ):
        self.concept = concept
        self.strength = strength
        self.window = window
        self.branch = branch
        self.mask = mask
        self.key = uuid.uuid4().hex

    def __deepcopy__(self, memo):
        # ModelPatcher.clone deep-copies its options; an immutable patch can be shared instead of copying its tensors.
        return self

    def start_run(self, guider) -> SteeringRun:
        """Resolve what depends on the run. `guider` is the CFGGuider that samples, its `conds` prepared."""
        sampling = guider.model_patcher.get_model_object("model_sampling")
        positive = guider.conds.get("positive")
        return SteeringRun(
            sigma_start=sampling.percent_to_sigma(self.window[0]),
            sigma_end=sampling.percent_to_sigma(self.window[1]),
            positive=None if positive is None else frozenset(cond["uuid"] for cond in positive),
        )

    def __call__(self, h: torch.Tensor, hsp: torch.Tensor, transformer_options: dict):
        if transformer_options["block"] != ("output", 0):
            return h, hsp
        run = transformer_options.get(OPTIONS_KEY, {}).get(self.key)
        if run is None:
            raise RuntimeError(
                "Apply H-Space Steering: this model was called outside ComfyUI's sampling, so its schedule and CFG "
                "branches are unknown. Sample it through a guider (KSampler, SamplerCustomAdvanced ...)."
            )
        branches = self._steered_branches(run, transformer_options)
        if not any(branches):
            return h, hsp
        batch = h.shape[0] // len(branches)
        delta = self._delta(run, batch, h)
        sigma = transformer_options["sigmas"][0].to(h.device)
        active = ((sigma <= run.sigma_start) & (sigma >= run.sigma_end)).to(h.dtype)
        if all(branches) and delta.shape[0] == 1:
            return h + delta * active, hsp
        select = h.new_tensor([float(steered) for steered in branches]) * active
        delta = torch.einsum("k,bchw->kbchw", select, delta.expand(batch, -1, -1, -1))
        return h + delta.reshape(h.shape), hsp

    def _steered_branches(self, run: SteeringRun, transformer_options: dict) -> list[bool]:
        """For each chunk of the U-Net batch, whether it is steered. Chunks come in any number and order."""
        indices = transformer_options["cond_or_uncond"]
        if self.branch == "both":
            return [True] * len(indices)
        uuids = transformer_options.get("uuids")
        if run.positive is None or uuids is None or len(uuids) != len(indices):
            positive = [index == 0 for index in indices]
        else:
            positive = [cond in run.positive for cond in uuids]
        return positive if self.branch == "positive" else [not is_positive for is_positive in positive]

    def _delta(self, run: SteeringRun, batch: int, h: torch.Tensor) -> torch.Tensor:
        """`[batch, C, H, W]`, or `[1, C, H, W]` where all images get the same, in h's dtype and on its device."""
        key = (batch, h.shape[2:], h.device, h.dtype)
        if key not in run.cache:
            coefficients = self.concept.coefficients(batch) * self.strength
            if (coefficients == coefficients[:1]).all():
                coefficients = coefficients[:1]
            directions = torch.stack([resize_direction(d.tensor, h.shape[2:]) for d in self.concept.directions()])
            delta = torch.einsum("bn,nchw->bchw", coefficients, directions)
            if self.mask is not None:
                delta = delta * resize_mask(self.mask, batch, h.shape[2:])
            run.cache[key] = delta.to(h.device, h.dtype)
        return run.cache[key]


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
    check_fits(concept, find_site(model))
    if branch not in BRANCHES:
        raise ValueError(f"apply_to: '{branch}' is not one of {', '.join(BRANCHES)}.")
    if not start_percent < end_percent:
        raise ValueError(
            f"start_percent ({start_percent:g}) must be below end_percent ({end_percent:g}); nothing is steered otherwise."
        )
    steered = model.clone()
    if strength == 0 or not concept.directions():
        return steered
    patch = SteeringPatch(concept, strength, (start_percent, end_percent), branch, mask)
    patches = steered.model_options["transformer_options"].setdefault("patches", {})
    # First in the list, so that patches which change h in place here (FreeU) see steered h whatever the node order.
    patches["output_block_patch"] = [patch, *patches.get("output_block_patch", [])]
    steered.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, f"{OPTIONS_KEY}.{patch.key}", partial(_resolve_run, patch)
    )
    return steered


def check_fits(concept: Concept, site: HSpaceSite) -> None:
    """Raise ValueError where a concept was found on another model family or width."""
    for direction in concept.directions():
        if direction.family != site.family or direction.tensor.shape[0] != site.channels:
            raise ValueError(
                f"concept: '{direction.name}' was found on {direction.family} with {direction.tensor.shape[0]} "
                f"channels, but the model is {site.family} with {site.channels}. Use a vector of the same base model, "
                "or discover it again on this one."
            )


def resize_direction(direction: torch.Tensor, size) -> torch.Tensor:
    """`[C, H, W]` to another map size: bilinear, values kept (not energy); `[C, 1, 1]` is left to broadcast."""
    if direction.shape[1:] == (1, 1) or direction.shape[1:] == tuple(size):
        return direction.expand(-1, *size)
    return F.interpolate(direction[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def resize_mask(mask: torch.Tensor, batch: int, size) -> torch.Tensor:
    """MASK `[H, W]` or `[B, H, W]` to `[1 or batch, 1, h, w]`, averaged over the area of each h pixel."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu()
    mask = F.interpolate(mask, size=tuple(size), mode="area")
    return mask if mask.shape[0] == 1 else comfy.utils.repeat_to_batch_size(mask, batch)


def _resolve_run(patch: SteeringPatch, executor, guider, sigmas, extra_args, *args, **kwargs):
    """`SAMPLER_SAMPLE` wrapper: leave the run's resolved state where the patch finds it."""
    options = extra_args["model_options"].setdefault("transformer_options", {})
    options.setdefault(OPTIONS_KEY, {})[patch.key] = patch.start_run(guider)
    return executor(guider, sigmas, extra_args, *args, **kwargs)
