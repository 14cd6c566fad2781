"""Add a concept in h-space while any sampler runs.

One class, `SteeringPatch`, with three lifetimes:

- **clone**: `attach` puts it into a clone of the model;
- **run**: `around_run`, a `SAMPLER_SAMPLE` wrapper, resolves when sampling starts what the run needs (`SteeringRun`):
  the sigma window of the model that really samples, the uuids of the guider's positive conditionings, each image's
  coefficients;
- **call**: `around_call`, an `APPLY_MODEL` wrapper outside of the compiled U-Net, resolves what one call needs
  (`SteeringCall`): which chunks of its batch are steered, and the finished tensors to add. The patch itself adds
  them at the concept's sites and does nothing else, for it may be traced by torch.compile.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace

import comfy.patcher_extension
import torch
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..bottleneck import Bottleneck
from ..comfy_compat import DECODER, compute_dtype, give_each_cond_a_uuid, put_first, window_indices
from ..concepts import Concept, coefficients_by_site
from .curve import Curve
from .halves import positive_chunks
from .masks import part_of_mask, warn_of_a_crop
from .places import find_places
from .rows import Rows, find_rows
from .state import SteeringCall, SteeringRun

RUNS_KEY, CALLS_KEY = "hspace_steering", "hspace_steering_calls"
"""Keys of transformer_options under which runs and calls are kept, by patch."""
HALVES = ("positive", "negative", "both")
"""Of classifier-free guidance."""


class SteeringPatch:
    """An `output_block_patch` that adds a concept to h. Immutable; all state of a run is in its `SteeringRun`.

    Args:
        concept: what to add.
        strength: factor on every coefficient.
        bottleneck: of the model; tells the size of h before the U-Net runs.
        window: (start, end) as fractions of sampling, 0 the noisiest.
        half: of CFG: "positive" (the conditional half, as in the paper), "negative" or "both".
        mask: `[B, H, W]` in [0, 1] at any size, or None; where it is 0 nothing is added.
        curve: factors on the strength over the window, as `Curve` takes them; empty for a constant strength.
    """

    def __init__(
        self,
        concept: Concept,
        strength: float,
        bottleneck: Bottleneck,
        window: tuple[float, float] = (0.0, 1.0),
        half: str = "positive",
        mask: torch.Tensor | None = None,
        curve: tuple[float, ...] = (),
    ):
        self.concept = concept
        self.strength = strength
        self.bottleneck = bottleneck
        self.window = window
        self.curve = curve
        self.half = half
        self.mask = None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu()
        self.sites = frozenset(concept.examples.acting)
        self.key = uuid.uuid4().hex

    def __deepcopy__(self, memo):
        # ModelPatcher.clone deep-copies its options; an immutable patch can be shared instead of copying its tensors.
        return self

    def attach(self, model):
        """A clone of a ModelPatcher with the patch first among its output-block patches, and its wrappers."""
        steered = model.clone()
        put_first(steered.model_options["transformer_options"], self)
        kinds, key = comfy.patcher_extension.WrappersMP, f"{RUNS_KEY}.{self.key}"
        steered.add_wrapper_with_key(kinds.SAMPLER_SAMPLE, key, self.around_run)
        steered.add_wrapper_with_key(kinds.APPLY_MODEL, key, self.around_call)
        return steered

    def around_run(self, executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        """`SAMPLER_SAMPLE` wrapper: leave the run's resolved state where its calls find it."""
        give_each_cond_a_uuid(guider.conds)
        positive = guider.conds.get("positive")
        run = self.start_run(
            guider.model_patcher.get_model_object("model_sampling"),
            noise,
            extra_args.get("seed"),
            None if positive is None else frozenset(cond["uuid"] for cond in positive),
            {cond["uuid"]: cond["area"] for conds in guider.conds.values() for cond in conds if "area" in cond},
        )
        options = extra_args["model_options"].setdefault("transformer_options", {})
        options.setdefault(RUNS_KEY, {})[self.key] = run
        samples = executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        if len(sigmas) > 1:
            warn_if_it_never_ran(run)
        return samples

    def start_run(
        self,
        model_sampling,
        noise: torch.Tensor,
        seed: int | None,
        positive: frozenset | None,
        areas: dict,
    ) -> SteeringRun:
        """Resolve what depends on the run.

        Args:
            noise: `[B, ...]` as the sampler gets it.
            seed: of the noise.
            positive, areas: as in `SteeringRun`.
        """
        start, end = (model_sampling.percent_to_sigma(percent) for percent in self.window)
        latent = (noise.shape[0], noise.shape[-2], noise.shape[-1])
        mask, places = self.mask, None
        if not self.concept.same_for_all or (mask is not None and len(mask) > 1):
            places = find_places(noise, seed)
        if places is not None and self.concept.moves_along_batch:
            logging.warning(
                "Apply H-Space Steering: concept: it sweeps along the batch, and the sampler gets %d of its images at "
                "a time, so the sweep starts again with each part. Sample the batch at once.",
                latent[0],
            )
        if mask is not None:
            warn_of_a_crop(mask, latent)
            if places is not None and len(mask) > 1:
                mask = mask[[place % len(mask) for place in places]]
        by_site = coefficients_by_site(self.concept, latent[0], places)
        coefficients = {site: self.strength * rows for site, rows in by_site.items()}
        curve = Curve(self.curve, self.window, model_sampling) if self.curve else None
        return SteeringRun(start, end, positive, areas, latent, coefficients, mask, curve)

    def around_call(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        """`APPLY_MODEL` wrapper: leave the call's resolved state where the patch finds it."""
        options = {} if transformer_options is None else transformer_options
        run = self.run_of_call(x, options)
        if run is not None:  # else it was called outside of sampling; the patch says so
            call = self.start_call(run, x, compute_dtype(executor.class_obj), options, c_crossattn)
            options.setdefault(CALLS_KEY, {})[self.key] = call
            if COMPILE_KEY in options.get("wrappers", {}).get(comfy.patcher_extension.WrappersMP.APPLY_MODEL, {}):
                # Newer versions compile with no guard on transformer_options, and a U-Net traced without a patch would
                # run without it ever after. Names of keyword arguments are guarded.
                added = call and [*call.deltas.items(), *call.gates.items()]
                shapes = added and [(site, *tensor.shape) for site, tensor in added]
                kwargs[f"{RUNS_KEY} {self.key} {shapes} {call is None or call.active is None}"] = None
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def run_of_call(self, x: torch.Tensor, transformer_options: dict) -> SteeringRun | None:
        """The run that a model call belongs to; None outside of sampling."""
        return transformer_options.get(RUNS_KEY, {}).get(self.key)

    def start_call(
        self,
        run: SteeringRun,
        x: torch.Tensor,
        dtype: torch.dtype,
        transformer_options: dict,
        embeddings: torch.Tensor | None,
    ) -> SteeringCall | None:
        """The call's resolved state for `x` `[rows, C, h, w]`; None where nothing in it is steered.

        Raises:
            ValueError: it cannot be told which rows are to be steered with what, or the sum is no number of `dtype`.
        """
        chunks = self._steered_chunks(run, transformer_options)
        if not any(chunks):
            return None
        size, indices = tuple(x.shape[-2:]), window_indices(transformer_options)
        crops = self._crops(run, size, transformer_options)
        key = (chunks, x.shape[0], size, indices, crops, x.device, dtype)
        if key not in run.cache:
            run.cache[key] = self._finished(run, chunks, x, dtype, indices, crops, embeddings)
        if run.always:
            return run.cache[key]
        active = run.factor(transformer_options["sigmas"][0].to(x.device))
        return replace(run.cache[key], active=active.to(dtype))

    def _finished(self, run: SteeringRun, chunks, x, dtype, indices, crops, embeddings) -> SteeringCall:
        """The call for rows in the order that they are found to be in."""
        size = tuple(x.shape[-2:])
        by_site = run.coefficients
        if indices is not None:
            by_site = {site: coefficients[list(indices)] for site, coefficients in by_site.items()}
        if alike := all((coefficients == coefficients[:1]).all() for coefficients in by_site.values()):
            by_site = {site: coefficients[:1] for site, coefficients in by_site.items()}
        masks = None if run.mask is None else [part_of_mask(run.mask, run.latent, crop, indices) for crop in crops]
        each_image = not alike or (masks is not None and len(masks[0]) > 1)
        each_chunk = len(set(zip(chunks, crops, strict=True))) > 1
        if not each_chunk and not each_image:
            chunks, masks, rows = chunks[:1], masks and masks[:1], Rows(x.shape[0], 1, False)
        else:
            count = run.latent[0] if indices is None else len(indices)
            rows = find_rows(x.shape[0], len(chunks), count, embeddings)
        if rows is None or (each_image and not rows.images):
            what = "gives each of %d images its own share" if each_image else "steers one of %d parts of the batch"
            raise ValueError(
                f"concept: {what % (run.latent[0] if each_image else len(chunks))}, but another node calls the model "
                f"on {x.shape[0] // len(chunks)} at a time without saying which. Steer all images alike and set "
                "apply_to to 'both', or remove that node."
            )
        vectors = self.concept.vectors()
        call = SteeringCall(
            chunks=chunks,
            images=rows.block,
            coefficients=by_site,
            vectors=[vector.tensors for vector in vectors],
            responses=[dict(vector.responses) for vector in vectors],
            masks=masks,
            repeats=rows.repeats,
        )
        sizes = {site: self.bottleneck.map_size(size[0], size[1], site) for site in sorted(self.sites)}
        return call.finish(sizes, x.device, dtype)

    def __call__(self, h: torch.Tensor, hsp: torch.Tensor, transformer_options: dict):
        # Traced by torch.compile: nothing but look-ups and tensor arithmetic.
        part, site = transformer_options["block"]
        if part != DECODER or site not in self.sites:
            return h, hsp
        calls = transformer_options.get(CALLS_KEY)
        if calls is None or self.key not in calls:
            raise ValueError(
                "model: Apply H-Space Steering knows schedules and halves of CFG from ComfyUI's sampling, and this "
                "model was called outside of it. Sample it through a guider (KSampler, SamplerCustomAdvanced ...)."
            )
        call, run = calls[self.key], self.run_of_call(h, transformer_options)
        if run is not None:
            run.ran = True
        if call is None:
            return h, hsp
        delta = call.added(site, h)
        if call.active is not None:
            delta = delta * call.active.to(h.dtype)
        return h + delta, hsp

    def _steered_chunks(self, run: SteeringRun, transformer_options: dict) -> tuple[bool, ...]:
        """For each chunk of the U-Net batch, true where it is steered."""
        if self.half == "both":
            return (True,) * len(transformer_options["cond_or_uncond"])
        positive = positive_chunks(run.positive, transformer_options)
        return tuple(is_positive == (self.half == "positive") for is_positive in positive)

    def _crops(self, run: SteeringRun, size, transformer_options: dict) -> tuple:
        """For each chunk, where its x lies in the latent: (y, x, height, width), or None for all of the image."""
        count = len(transformer_options["cond_or_uncond"])
        if self.mask is None:
            return (None,) * count
        uuids = transformer_options.get("uuids") or ()
        areas = [run.areas.get(cond) for cond in uuids] if len(uuids) == count else [None] * count
        if size != run.latent[1:] and not all(areas) and not run.warned:
            run.warned = True
            logging.warning(
                "Apply H-Space Steering: mask: the model is called on %d x %d latent pixels of an image of %d x %d. "
                "The mask is scaled to that; if these are tiles of the image, it is not where you drew it.",
                *size,
                *run.latent[1:],
            )
        return tuple(None if area is None else tuple(area[-2:]) + size for area in areas)


def warn_if_it_never_ran(run: SteeringRun) -> None:
    """Warn at the end of a run whose U-Net never came to the patch."""
    if not run.ran:
        logging.warning(
            "Apply H-Space Steering: nothing was steered. Another node replaces the model's forward pass or skips its "
            "output blocks (a step cache, for instance), so that steering never ran. Remove that node."
        )


def check_window(start_percent: float, end_percent: float) -> None:
    """Raise ValueError where a window is not within 0 and 1, or holds nothing."""
    for name, percent in (("start_percent", start_percent), ("end_percent", end_percent)):
        if not 0 <= percent <= 1:
            raise ValueError(f"{name}: {percent:g} is out of range. Give a number from 0, pure noise, to 1, the image.")
    if not start_percent < end_percent:
        raise ValueError(
            f"start_percent ({start_percent:g}) must be below end_percent ({end_percent:g}), or no step lies between "
            "them. Lower start_percent or raise end_percent."
        )
