"""Measure how much of a concept is in what a model samples, and change nothing.

h itself does not tell. A steering vector is a direction that works, not one along which the model's own states differ,
and the decoder's attention brings in what the prompt says only after h. So the probe asks what the vector is defined
by, its effect on the prediction at the states of the run. With `d` the predictions of x0 under the run's own prompt,

    plus = d(x; h + v)    minus = d(x; h - v)

are what strengths 1 and -1 would do to it. Where something lies between them is where it lies along the concept, in
units of strength: 1 at `plus`, -1 at `minus`, by least squares. At each step that is asked of the model's own
prediction, and in the end of the image; its score is the median over the steps. (Least squares over all steps at once
would let the first ones decide, where a vector changes most and the least is decided; docs/decisions.md.)
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import replace

import comfy.patcher_extension
import torch

from ..bottleneck import find_bottleneck
from ..comfy_compat import clone_options, denoise, put_first, set_wrapper
from ..concepts import Concept, coefficients_by_site, quoted
from .patch import RUNS_KEY, SteeringPatch, check_window
from .readings import Reading, remember
from .state import SteeringRun

PROBE_KEY = "hspace_probe"
END_PERCENT = 0.6
"""Of sampling: what an image shows is decided by then (docs/decisions.md)."""
_STEP_CACHES = ("easycache", "lazycache")
"""Keys of ComfyUI's wrappers that answer for the model, and count its calls."""
NO_PROMPT = "probe: the sampler's guider has no positive prompt, whose predictions are measured. Use another guider."
NO_STEPS = (
    "probe: nothing was measured, because the sampler took no step between start_percent and end_percent. Widen the "
    "window, or raise the sampler's denoise."
)


def probe_concepts(model, concepts: Sequence[Concept], start_percent: float = 0.0, end_percent: float = END_PERCENT):
    """A clone of `model` (ModelPatcher) that samples the same images, bit for bit, and is probed meanwhile.

    Each step inside the window costs two more evaluations of the prompt for each concept. Steering by
    `apply_steering`, before or after, is left out of `plus` and `minus`, so that what it does is seen.

    Args:
        concepts: one or more; each is the same for all images of a batch.
        start_percent, end_percent: the part of sampling that is probed, in [0, 1], 0 the noisiest.

    Returns:
        The clone, and the `Probe` whose `content` finds the readings of its runs (`find_reading`).

    Raises:
        ValueError: a model without a bottleneck, an empty window, or a concept of another model family, that differs
            between images, or that steers nothing.
    """
    bottleneck = find_bottleneck(model)
    check_window(start_percent, end_percent)
    for number, concept in enumerate(concepts, 1):
        bottleneck.check_fits(concept)
        words = concept.describe()[:80]
        if not concept.same_for_all:
            raise ValueError(
                f"concept_{number}: '{words}' differs between the images of a batch, and a probe looks for the same in "
                "all of them. Connect the concepts that it is made of, one to each input."
            )
        factors = concept.coefficients(1)[0].tolist()
        terms = zip(factors, concept.vectors(), strict=True)
        if not any(factor and vector.steers for factor, vector in terms):
            raise ValueError(f"concept_{number}: '{words}' steers nothing, so there is nothing to look for.")
    patches = [SteeringPatch(concept, 1.0, bottleneck, half="both") for concept in concepts]
    probe = Probe(patches, start_percent, end_percent)
    return probe.attach(model), probe


class Probe:
    """Immutable; what a run finds is in its `ProbeRun`.

    Args:
        patches: that steer everything with one concept each, at strength 1.
        start, end: of the window in percent.
    """

    def __init__(self, patches: Sequence[SteeringPatch], start: float, end: float):
        self.patches, self.start, self.end = tuple(patches), start, end
        self.names = tuple(patch.concept.describe() for patch in patches)
        self.key = f"{PROBE_KEY}.{uuid.uuid4().hex}"
        self.content = self._digest()

    def __deepcopy__(self, memo):
        # As SteeringPatch: an immutable object can be shared.
        return self

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.names, self.start, self.end)).encode("utf-8", "replace"))
        for patch in self.patches:
            for site, coefficients in coefficients_by_site(patch.concept, 1).items():
                digest.update(repr((site, coefficients.tolist())).encode())
            digest.update("|".join(vector.content for vector in patch.concept.vectors()).encode())
        return digest.hexdigest()

    def attach(self, model):
        """A clone of a ModelPatcher that is probed."""
        probed = model.clone()
        kinds = comfy.patcher_extension.WrappersMP
        probed.add_wrapper_with_key(kinds.OUTER_SAMPLE, self.key, self.around_sampling)
        probed.add_wrapper_with_key(kinds.PREDICT_NOISE, self.key, self.around_prediction)
        probed.add_wrapper_with_key(kinds.CALC_COND_BATCH, self.key, self.around_evaluation)
        return probed

    def around_sampling(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """`OUTER_SAMPLE` wrapper: one run, whose reading is kept once its latents are there."""
        guider = executor.class_obj
        run = ProbeRun(self, guider)
        guider.model_options.setdefault("transformer_options", {}).setdefault(PROBE_KEY, {})[self.key] = run
        latents = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        remember(self.content, latents, run.reading(latents if float(sigmas[-1]) == 0 else None))
        return latents

    def around_prediction(self, executor, x, timestep, model_options=None, *args, **kwargs):
        """`PREDICT_NOISE` wrapper: predict as without a probe, then look."""
        options = {} if model_options is None else model_options
        run = self._run_of(options)
        if run is None:
            return executor(x, timestep, options, *args, **kwargs)
        run.awaited, run.seen = x, {}
        run.prediction = executor(x, timestep, options, *args, **kwargs)
        run.look(x, timestep, options)
        return run.prediction

    def around_evaluation(self, executor, model, conds, x_in, timestep, model_options, *args, **kwargs):
        """`CALC_COND_BATCH` wrapper: what the sampler asks of the model anyway need not be evaluated again."""
        outputs = executor(model, conds, x_in, timestep, model_options, *args, **kwargs)
        run = self._run_of(model_options)
        if run is not None and run.awaited is x_in:  # later ones of the same step are perturbed (PAG, SAG)
            run.awaited = None
            run.seen = {
                id(cond): output.flatten(1).float().clone()
                for cond, output in zip(conds, outputs, strict=True)
                if cond is not None
            }
        return outputs

    def _run_of(self, model_options: dict) -> ProbeRun | None:
        return model_options.get("transformer_options", {}).get(PROBE_KEY, {}).get(self.key)


class ProbeRun:
    """One sampling run of B images. What is kept of each step is on the CPU, for a sampler may take many.

    Args:
        probe: with K patches.
        guider: of the run.
    """

    def __init__(self, probe: Probe, guider):
        self.probe, self.guider = probe, guider
        self.awaited: torch.Tensor | None = None
        self.seen: dict[int, torch.Tensor] = {}
        self.prediction: torch.Tensor | None = None
        self.problem = NO_STEPS
        self.sigmas: list[float] = []
        self.steps: list[torch.Tensor] = []
        self.rulers: list[torch.Tensor] = []
        self.middles: list[torch.Tensor] = []
        self.prepared: tuple | None = None

    def __deepcopy__(self, memo):
        # Packs that deep-copy model_options within a step share the run.
        return self

    def look(self, x: torch.Tensor, timestep: torch.Tensor, options: dict) -> None:
        """Measure at one call of the model.

        Args:
            x: `[B, C, ...]` noised latents.
            timestep: `[B]` sigmas.
            options: of the run's model.
        """
        sigma, prompt = float(timestep[0]), self.guider.conds.get("positive")
        start, end, runs = self._prepare(x)
        if not end <= sigma <= start:
            return
        if not prompt:
            self.problem = NO_PROMPT
            return
        own = self._own(options)
        plus, minus = (
            torch.stack(
                [
                    self._evaluated(prompt, x, timestep, _steered(own, patch, run))
                    for patch, run in zip(self.probe.patches, side, strict=True)
                ],
                1,
            )
            for side in runs
        )
        prediction = self.seen.get(id(prompt))
        if prediction is None:
            prediction = self._evaluated(prompt, x, timestep, self._own(options, steered=True))
        # Half of the effect of 2 units of strength: its products are in units of 1.
        effect, middle = (plus - minus) / 2, (plus + minus) / 2
        ruler = effect / effect.square().sum(2, keepdim=True)
        self.steps.append(((prediction[:, None] - middle) * ruler).sum(2).cpu())
        self.rulers.append(ruler.cpu())
        self.middles.append(_product(middle.cpu(), self.rulers[-1]))
        self.sigmas.append(sigma)

    def reading(self, latents: torch.Tensor | None) -> Reading:
        """What was found.

        Args:
            latents: that came out; None where noise is left in them, and the last prediction stands for the image.
        """
        if not self.rulers or self.prediction is None:
            return Reading(self.probe.names, torch.zeros(0), torch.zeros(0), torch.zeros(0), self.problem)
        image = self.prediction
        if latents is not None:
            image = self.guider.model_patcher.model.process_latent_in(latents)
        image, pairs = image.flatten(1)[:, None].cpu(), zip(self.rulers, self.middles, strict=True)
        places = torch.stack([_product(image, ruler) - middle for ruler, middle in pairs])
        scores, steps = places.quantile(0.5, 0).float(), torch.stack(self.steps)
        found = steps.isfinite().all(0) & scores.isfinite()
        silent = [name for name, finite in zip(self.probe.names, found.all(0).tolist(), strict=True) if not finite]
        problem = f"probe: {quoted(', '.join(silent))} changes nothing that the model predicts here." if silent else ""
        return Reading(self.probe.names, torch.tensor(self.sigmas), steps, scores, problem)

    def _prepare(self, x: torch.Tensor) -> tuple:
        """Sigmas between which the run is probed, and the state of each patch at strength 1, and at -1."""
        if self.prepared is None:
            sampling = self.guider.model_patcher.get_model_object("model_sampling")
            window = [float(sampling.percent_to_sigma(percent)) for percent in (self.probe.start, self.probe.end)]
            plus = [patch.start_run(sampling, x, None, None, {}) for patch in self.probe.patches]
            minus = [
                replace(run, coefficients={site: -rows for site, rows in run.coefficients.items()}, cache={})
                for run in plus
            ]
            self.prepared = *window, (plus, minus)
        return self.prepared

    def _own(self, options: dict, steered: bool = False) -> dict:
        """Model options for the probe's own evaluations: neither it nor a step cache takes them for the sampler's.

        Args:
            steered: keep what Apply H-Space Steering adds.
        """
        own = clone_options(options)
        transformer_options, others = own["transformer_options"], {self.probe.key, *_STEP_CACHES}
        if not steered:
            patches = transformer_options.get("patches", {})
            found = patches.get("output_block_patch", [])
            others |= {f"{RUNS_KEY}.{patch.key}" for patch in found if isinstance(patch, SteeringPatch)}
            kept = [patch for patch in found if not isinstance(patch, SteeringPatch)]
            transformer_options["patches"] = {**patches, "output_block_patch": kept}
        transformer_options["wrappers"] = {
            kind: {key: wrappers for key, wrappers in by_key.items() if key not in others}
            for kind, by_key in transformer_options["wrappers"].items()
        }
        return own

    def _evaluated(self, prompt: list[dict], x, timestep, options: dict) -> torch.Tensor:
        """float32 `[B, n]`."""
        return denoise(self.guider.inner_model, [prompt], x, timestep, options)[0].flatten(1).float()


def _steered(options: dict, patch: SteeringPatch, run: SteeringRun) -> dict:
    """Model options with which all that is evaluated is steered."""
    steered = clone_options(options)
    transformer_options = steered["transformer_options"]
    put_first(transformer_options, patch)
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    set_wrapper(transformer_options, kind, f"{PROBE_KEY}.{patch.key}", patch.around_call)
    transformer_options[RUNS_KEY] = {**transformer_options.get(RUNS_KEY, {}), patch.key: run}
    return steered


def _product(x: torch.Tensor, ruler: torch.Tensor) -> torch.Tensor:
    """Inner products `[B, K]` of what is at `[B, 1 or K, n]` with rulers `[B, K, n]`, all on the CPU.

    In float64: they are large beside their differences, which are the figures.
    """
    return (x.double() * ruler.double()).sum(2)
