"""The parts of steering that run while a model samples: what a run and a call need, and the patch that adds to h.

A U-Net patch sees one model call, knows nothing of the sampling run around it, and may be traced by torch.compile. So
what a run needs (`SteeringRun`) and what a call needs (`SteeringCall`) is resolved before it, by the wrappers in
`steering.py`, and the patch looks up and adds.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field, replace

import comfy.utils
import torch
import torch.nn.functional as F

from .comfy_compat import DECODER_ENTRANCE
from .concept import Concept
from .maps import resize_direction, resize_mask
from .site import HSpaceSite

CALLS_KEY = "hspace_steering_calls"
BRANCHES = ("positive", "negative", "both")


@dataclass
class SteeringRun:
    """What one sampling run needs; lives in that run's transformer_options and dies with it.

    Attributes:
        sigma_start, sigma_end: steer while `sigma_end <= sigma <= sigma_start`.
        positive: uuids of the conditionings under the guider's name "positive"; None where the guider has none.
        areas: (height, width, y, x) in latent pixels of the conditionings that see a crop of the image, by uuid.
        latent: batch, height and width of the latents that are sampled.
        coefficients: float32 `[batch, N]`, strength included.
        cache: finished `SteeringCall`s by all that they depend on.
    """

    sigma_start: float
    sigma_end: float
    positive: frozenset | None
    areas: dict[uuid.UUID, tuple[int, ...]]
    latent: tuple[int, int, int]
    coefficients: torch.Tensor
    cache: dict = field(default_factory=dict)
    warned: bool = False

    @property
    def always(self) -> bool:
        return self.sigma_end <= 0 and self.sigma_start >= 1e8  # percent_to_sigma of 1 and of 0

    def __deepcopy__(self, memo):
        # Packs that deep-copy model_options within a step share the run, and its finished tensors, with the original.
        return self


@dataclass
class SteeringCall:
    """What one call of the U-Net adds to h, with all that is needed to work it out at another size of h.

    Attributes:
        chunks: for each chunk of the batch, whether it is steered.
        coefficients: float32 `[images, N]`, or `[1, N]` where all images get the same.
        directions: N times `[C, H, W]` or `[C, 1, 1]`, float32.
        masks: a mask `[1 or images, 1, h, w]` for each chunk, or None.
        active: scalar, 1 inside the sigma window and 0 outside; None where the window is all of sampling. A tensor, since
            a Python number that changes would recompile the U-Net, and reading it back would wait for the GPU.
        delta: finished, in h's expected size and dtype, without `active`.
    """

    chunks: tuple[bool, ...]
    images: int
    coefficients: torch.Tensor
    directions: list[torch.Tensor]
    masks: list[torch.Tensor] | None
    active: torch.Tensor | None = None
    delta: torch.Tensor | None = None

    def compose(self, size) -> torch.Tensor:
        """float32 `[chunks * images, C, h, w]`, or `[1, C, h, w]` where all of them get the same."""
        directions = torch.stack([resize_direction(direction, size) for direction in self.directions])
        delta = torch.einsum("bn,nchw->bchw", self.coefficients, directions)
        parts = [delta] * len(self.chunks)
        if self.masks is not None:
            parts = [delta * resize_mask(mask, self.images, size) for mask in self.masks]
        if all(self.chunks) and (len(parts) == 1 or self.masks is None) and parts[0].shape[0] == 1:
            return parts[0]
        return torch.cat([
            (part if steered else torch.zeros_like(part)).expand(self.images, -1, -1, -1)
            for part, steered in zip(parts, self.chunks, strict=True)
        ])  # fmt: skip


class SteeringPatch:
    """An `output_block_patch` that adds a concept to h. Immutable; all state of a run is in its `SteeringRun`.

    Args:
        concept: what to add.
        strength: factor on every coefficient.
        site: of the model; tells the size of h before the U-Net runs.
        window: (start, end) as fractions of sampling, 0 the noisiest.
        branch: "positive" (the conditional half of CFG, as in the paper), "negative" or "both".
        mask: `[B, H, W]` in [0, 1] at any size, or None; where it is 0 nothing is added.
    """

    def __init__(
        self,
        concept: Concept,
        strength: float,
        site: HSpaceSite,
        window: tuple[float, float] = (0.0, 1.0),
        branch: str = "positive",
        mask: torch.Tensor | None = None,
    ):
        self.concept = concept
        self.strength = strength
        self.site = site
        self.window = window
        self.branch = branch
        self.mask = None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu()
        self.key = uuid.uuid4().hex

    def __deepcopy__(self, memo):
        # ModelPatcher.clone deep-copies its options; an immutable patch can be shared instead of copying its tensors.
        return self

    def __call__(self, h: torch.Tensor, hsp: torch.Tensor, transformer_options: dict):
        # Traced by torch.compile: nothing but look-ups and tensor arithmetic.
        if transformer_options["block"] != DECODER_ENTRANCE:
            return h, hsp
        calls = transformer_options.get(CALLS_KEY)
        if calls is None or self.key not in calls:
            raise ValueError(
                "model: Apply H-Space Steering knows schedules and CFG branches from ComfyUI's sampling, and this model was "
                "called outside of it. Sample it through a guider (KSampler, SamplerCustomAdvanced ...)."
            )
        call = calls[self.key]
        if call is None:
            return h, hsp
        delta = call.delta
        if delta.shape[2:] != h.shape[2:]:  # something scales h inside the U-Net, e.g. Deep Shrink
            delta = call.compose(h.shape[2:])
        delta = delta.to(h.device, h.dtype)
        if call.active is not None:
            delta = delta * call.active.to(h.dtype)
        return h + delta, hsp

    def start_run(self, guider, noise: torch.Tensor) -> SteeringRun:
        """Resolve what depends on the run. `guider` is the CFGGuider that samples, its `conds` prepared."""
        sampling = guider.model_patcher.get_model_object("model_sampling")
        _tell_apart(guider.conds)
        positive = guider.conds.get("positive")
        return SteeringRun(
            sigma_start=sampling.percent_to_sigma(self.window[0]),
            sigma_end=sampling.percent_to_sigma(self.window[1]),
            positive=None if positive is None else frozenset(cond["uuid"] for cond in positive),
            areas={cond["uuid"]: cond["area"] for conds in guider.conds.values() for cond in conds if "area" in cond},
            latent=(noise.shape[0], noise.shape[-2], noise.shape[-1]),
            coefficients=self.concept.coefficients(noise.shape[0]) * self.strength,
        )

    def start_call(self, run: SteeringRun, x: torch.Tensor, dtype, transformer_options: dict) -> SteeringCall | None:
        """What one model call on `x` `[chunks * images, C, h, w]` adds; None where it is not steered at all."""
        chunks = self._steered_chunks(run, transformer_options)
        if not any(chunks):
            return None
        images, size = x.shape[0] // len(chunks), tuple(x.shape[-2:])
        window = transformer_options.get("context_window")
        indices = tuple(window.index_list) if window is not None and window.dim == 0 else None
        crops = self._crops(run, size, transformer_options)
        key = (chunks, images, size, indices, crops, x.device, dtype)
        if key not in run.cache:
            coefficients = self._coefficients(run, images, indices)
            if (coefficients == coefficients[:1]).all():
                coefficients = coefficients[:1]
            call = SteeringCall(
                chunks=chunks,
                images=images,
                coefficients=coefficients,
                directions=[direction.tensor for direction in self.concept.directions()],
                masks=None if self.mask is None else [self._mask(run, crop, indices) for crop in crops],
            )
            call.delta = call.compose(self.site.map_size(*size)).to(x.device, dtype)
            call.coefficients = call.coefficients.to(x.device)
            call.directions = [direction.to(x.device) for direction in call.directions]
            call.masks = None if call.masks is None else [mask.to(x.device) for mask in call.masks]
            run.cache[key] = call
        if run.always:
            return run.cache[key]
        sigma = transformer_options["sigmas"][0].to(x.device)
        active = ((sigma <= run.sigma_start) & (sigma >= run.sigma_end)).to(dtype)
        return replace(run.cache[key], active=active)

    def _steered_chunks(self, run: SteeringRun, transformer_options: dict) -> tuple[bool, ...]:
        """For each chunk of the U-Net batch, whether it is steered. Chunks come in any number and order."""
        indices = transformer_options["cond_or_uncond"]
        if self.branch == "both":
            return (True,) * len(indices)
        uuids = transformer_options.get("uuids")
        if run.positive is None or uuids is None or len(uuids) != len(indices):
            positive = (index == 0 for index in indices)
        else:
            positive = (cond in run.positive for cond in uuids)
        return tuple(is_positive == (self.branch == "positive") for is_positive in positive)

    def _coefficients(self, run: SteeringRun, images: int, indices: tuple[int, ...] | None) -> torch.Tensor:
        """`[images, N]` of the images of this call, which context windows make a part of those of the run."""
        if indices is not None:
            return run.coefficients[list(indices)]
        if images != run.latent[0]:
            if (run.coefficients != run.coefficients[:1]).any():
                raise ValueError(
                    f"concept: gives each of {run.latent[0]} images its own share, but another node calls the model on "
                    f"{images} at a time without saying which. Steer all images alike, or remove that node."
                )
            return run.coefficients[:1].expand(images, -1)
        return run.coefficients

    def _crops(self, run: SteeringRun, size, transformer_options: dict) -> tuple:
        """For each chunk, where its x lies in the latent: (y, x) of its corner, or None for all of the image."""
        count = len(transformer_options["cond_or_uncond"])
        if self.mask is None:
            return (None,) * count
        uuids = transformer_options.get("uuids") or ()
        areas = [run.areas.get(cond) for cond in uuids] if len(uuids) == count else [None] * count
        if size != run.latent[1:] and not all(areas) and not run.warned:
            run.warned = True
            logging.warning(
                "Apply H-Space Steering: mask: the model is called on %d x %d latent pixels of an image of %d x %d. The "
                "mask is scaled to that; if these are tiles of the image, it is not where you drew it.",
                *size, *run.latent[1:],
            )  # fmt: skip
        return tuple(None if area is None else tuple(area[-2:]) + size for area in areas)

    def _mask(self, run: SteeringRun, crop, indices: tuple[int, ...] | None) -> torch.Tensor:
        """The part of the mask that a chunk sees, `[1 or images, 1, h, w]`."""
        mask = self.mask
        if indices is not None and mask.shape[0] > 1:
            mask = comfy.utils.repeat_to_batch_size(mask, run.latent[0])[list(indices)]
        if crop is not None:
            y, x, height, width = crop
            mask = F.interpolate(mask, size=run.latent[1:], mode="area")[..., y : y + height, x : x + width]
        return mask


def _tell_apart(conds: dict[str, list[dict]]) -> None:
    """Give every conditioning of a run a uuid of its own.

    Where one half of CFG has an area, ComfyUI makes a copy of that conditioning for the other half and leaves it the
    same uuid. `conds` are the run's own lists, so that nobody else's conditionings change.
    """
    seen = {cond["uuid"] for cond in conds.get("positive", ())}
    for name, entries in conds.items():
        if name == "positive":
            continue
        for index, cond in enumerate(entries):
            if cond["uuid"] in seen:
                entries[index] = {**cond, "uuid": uuid.uuid4()}
            seen.add(entries[index]["uuid"])
