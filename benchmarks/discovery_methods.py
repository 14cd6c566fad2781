"""Ways to find a vector, for the discovery benchmark: the paper's, ours one change at a time, and none at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F

from hspace import Vector, apply_steering
from hspace.bottleneck import find_bottleneck
from hspace.discovery import DISTILLED, DiscoverySettings, PromptPairs, Recipe
from hspace.discovery.distilled import LEARN_UNTIL, learn_from_samples, roll_out, start_noise
from hspace.discovery.objective import squared_error
from hspace.discovery.run import Run
from hspace.discovery.samples import SAMPLING_STEPS, sample_images
from hspace.discovery.streams import Stream

from .baselines import mean_difference
from .capacity import LowRank, NoiseLevels, SecondSite, discover_extended
from .common import IMAGE_SIZE, PAPER_PROTOCOL, Bench, Steer, Task
from .rivals import RIVAL_SETTINGS, average, discover_slider, keep_best, respodiff, reuse_states, second_order

LATENT_SHAPE = (4, 16, 16)


@dataclass(frozen=True)
class Method:
    """A way to find a vector.

    Attributes:
        settings: of `DiscoverySettings`, for what differs from its defaults.
        recipe: None for that of `settings`.
        sampled_under: roles, "concept" or "base"; images are sampled under their prompts first, `sample_count` in all
            and as many under each, and the vector is learnt from those, noised. None are sampled by default.
        task: what is made of the task first.
        start_from: a vector to start from, and the evaluations that it cost.
        find: the vector, or another means of steering, and the evaluations that it cost, instead of all that.
        after: what is done to the finished tensor.
        steer: `steer(model, concept, strength)` instead of Apply's default.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    recipe: Recipe | None = None
    sampled_under: tuple[str, ...] = ()
    task: Callable[[Task], Task] | None = None
    start_from: Callable[[Bench, Task, int], tuple[Vector, int]] | None = None
    find: Callable[[Bench, Task, int], tuple[Vector | Steer, int]] | None = None
    after: Callable[[torch.Tensor], torch.Tensor] | None = None
    steer: Callable | None = None

    def __call__(self, bench: Bench, task: Task, seed: int) -> tuple[Vector | Steer, int, float]:
        """A vector or another means of steering, U-Net evaluations (images included), and seconds."""
        began = time.perf_counter()
        result, evaluations = (self.find or self._discover)(bench, task, seed)
        if self.after:
            result = replace(result, tensor=self.after(result.tensor))
        if self.steer:
            result = partial(self.steer, concept=result)
        return result, evaluations, time.perf_counter() - began

    def _discover(self, bench: Bench, task: Task, seed: int) -> tuple[Vector, int]:
        task, settings = self.task(task) if self.task else task, {**self.settings, "seed": seed}
        start, start_evaluations = self.start_from(bench, task, seed) if self.start_from else (None, 0)
        samples, sample_evaluations = self._sample(bench, task, settings) if self.sampled_under else (None, 0)
        discovery, _ = bench.discover(task, samples, start, self.recipe, **settings)
        return discovery.vector, discovery.evaluations + start_evaluations + sample_evaluations

    def _sample(self, bench: Bench, task: Task, settings: Mapping[str, object]) -> tuple[torch.Tensor, int]:
        """LATENT images, and the evaluations that they cost."""
        pairs, options = bench.prompt_pairs(task), DiscoverySettings(task.name, **{**IMAGE_SIZE, **settings})
        options = replace(options, sample_count=options.sample_count // len(self.sampled_under))
        with torch.inference_mode():
            batches = [
                sample_images(bench.parts[0], _only(role, pairs), options, LATENT_SHAPE) for role in self.sampled_under
            ]
        count = len(task.base)
        # Image i belongs to pair i modulo their number, so each batch ends with a whole round of pairs.
        whole_rounds = [batch[: len(batch) // count * count] for batch in batches]
        return torch.cat(whole_rounds), sum(map(len, batches)) * SAMPLING_STEPS * 2


def _only(role: str, pairs: PromptPairs) -> PromptPairs:
    """Pairs whose concept prompts, which images are sampled under, are those of a role."""
    return pairs if role == "concept" else PromptPairs(pairs.base, pairs.base)


def min_snr(predicted: torch.Tensor, target: torch.Tensor, base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Hang et al. (ICCV 2023), gamma 5, for epsilon-prediction, for which `scale` is 1 / sigma."""
    snr = scale.flatten() ** 2
    return squared_error(predicted, target, base, scale) * snr.clamp(max=5) / snr


def anywhere(u: torch.Tensor) -> torch.Tensor:
    """Places in the noise schedule from uniform numbers `[B]`, each on its own."""
    return LEARN_UNTIL * u


def without_decay(setting: float, done: float, rms: float) -> float:
    """A learning rate relative to the RMS of h."""
    return setting * rms


def rolled_out(**options) -> Callable[[Run, list[torch.Tensor] | None], torch.Tensor]:
    """`Recipe.states` that are `roll_out` with these options."""

    def states(run: Run, samples: list[torch.Tensor] | None) -> torch.Tensor:
        return roll_out(run, **options)

    return states


def antithetic(run: Run) -> torch.Tensor:
    """Noise for a roll-out, each in a batch with its negative."""
    half = start_noise(replace(run, shape=(run.shape[0] // 2, *run.shape[1:])))
    return torch.cat([half, -half])


def one_noise(run: Run) -> torch.Tensor:
    """Noise for a roll-out, the same for all."""
    return torch.randn(run.shape, generator=run.random(Stream.ROLL_OUT_START, 0))


def with_pairs_that_want_no_change(task: Task) -> Task:
    """Beside each pair one whose base prompt says the concept already.

    The teacher wants no change there, and a vector that makes one pays for it.
    """
    return replace(task, concept=2 * task.concept, base=task.base + task.concept)


def first_pair_only(task: Task) -> Task:
    """The task with its first pair."""
    return replace(task, concept=task.concept[:1], base=task.base[:1])


def difference_of_means(bench: Bench, task: Task, seed: int, images: int = 64) -> tuple[Vector, int]:
    """The mean difference of h, and what it cost; away from what the concept must lack, if that is what says it."""
    model, clip, _ = bench.parts
    vector, evaluations = mean_difference(model, clip, task.avoid or task.concept, task.base, task.name, images, seed)
    return (replace(vector, tensor=-vector.tensor) if task.avoid else vector), evaluations


def no_map(bench: Bench, task: Task, seed: int) -> tuple[Vector, int]:
    """Zeros, one a channel."""
    bottleneck = find_bottleneck(bench.parts[0])
    return Vector(torch.zeros(bottleneck.channels, 1, 1), task.name, bottleneck.family), 0


def low_frequencies(tensor: torch.Tensor) -> torch.Tensor:
    """A map of 2 by 2, made as large as the tensor's."""
    pooled = F.adaptive_avg_pool2d(tensor[None], 2)
    return F.interpolate(pooled, size=tensor.shape[1:], mode="bilinear", align_corners=False)[0]


def mean_of_map(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with each channel's mean everywhere."""
    return tensor.mean((1, 2), keepdim=True).expand_as(tensor).contiguous()


def steer_both_halves(model, concept: Vector, strength: float):
    """The unconditional half the other way, by half as much."""
    return apply_steering(apply_steering(model, concept, strength), concept, -0.5 * strength, half="negative")


_NOT_CALIBRATED = {"calibrate": False}
_NOISED = {"sample_count": 62, "steps": 104, "calibrate": False}
"""2,480 evaluations for images, 3,328 for learning."""

PUBLISHED = "paper, as published"
PAPERS_LOSS = "paper's loss"
DEFAULT = "+ calibrated (default)"
SPATIAL_MEAN = "default, spatial_mean on"
METHODS = {
    PUBLISHED: Method(PAPER_PROTOCOL),
    PAPERS_LOSS: Method({"method": "paper", "sample_count": 62, "steps": 156}),
    "+ teacher instead of noise": Method(_NOISED, replace(DISTILLED, error=squared_error), sampled_under=("concept",)),
    "+ each sample relative": Method(_NOISED, sampled_under=("concept",)),
    "relative, t not stratified": Method(
        _NOISED, replace(DISTILLED, states=partial(learn_from_samples, places=anywhere)), sampled_under=("concept",)
    ),
    "relative, images of the base prompts": Method(_NOISED, sampled_under=("base",)),
    "relative, images of both": Method({**_NOISED, "sample_count": 64}, sampled_under=("concept", "base")),
    "+ on the sampler's path": Method(_NOT_CALIBRATED),
    DEFAULT: Method(),
    "default, guidance 1": Method({"guidance": 1.0}),
    "default, guidance 2": Method({"guidance": 2.0}),
    "default, guidance 5": Method({"guidance": 5.0}),
    "default, rate 0.05": Method({"learning_rate": 0.05}),
    "default, rate 0.2": Method({"learning_rate": 0.2}),
    "default, batch 4": Method({"batch_size": 4, "steps": 250}),
    "default, 50 steps": Method({"steps": 50, "sample_count": 24}),
    "default, 300 steps": Method({"steps": 300, "sample_count": 128}),
    "default, the noisier 70 % only": Method(recipe=replace(DISTILLED, states=rolled_out(until=0.7))),
    "default, paths without guidance": Method(recipe=replace(DISTILLED, states=rolled_out(cfg=1.0))),
    "default, weighted by min-SNR": Method(recipe=replace(DISTILLED, error=min_snr)),
    "default, no decay": Method(recipe=replace(DISTILLED, learning_rate=without_decay)),
    "default, no decay, averaged": Method(recipe=replace(DISTILLED, learning_rate=without_decay, states=average)),
    "default, noise and its negative": Method(recipe=replace(DISTILLED, states=rolled_out(noise=antithetic))),
    "default, one noise for all runs": Method(recipe=replace(DISTILLED, states=rolled_out(noise=one_noise))),
    "default, best of a fixed set": Method({"steps": 105}, replace(DISTILLED, states=keep_best)),
    "default, pairs that want no change": Method(task=with_pairs_that_want_no_change),
    "default, states kept and reused": Method({"steps": 229}, replace(DISTILLED, states=reuse_states)),
    "default, from mean difference": Method(start_from=partial(difference_of_means, images=8)),
    "default, one pair": Method(task=first_pair_only),
    "L-BFGS on a fixed set": Method(_NOT_CALIBRATED, replace(DISTILLED, states=second_order)),
    "default, steering 70 % of sampling": Method(steer=partial(apply_steering, end_percent=0.7)),
    "default, other half steered back": Method(steer=steer_both_halves),
    "default, and by noise level": Method(find=partial(discover_extended, extension=NoiseLevels(3))),
    "default, and a map of rank 8": Method(find=partial(discover_extended, extension=LowRank(8))),
    "default, and a second site": Method(
        find=partial(discover_extended, extension=SecondSite(("output", 3), (192, 8, 8)))
    ),
    SPATIAL_MEAN: Method({"spatial_mean": True}),
    "default, averaged when finished": Method(after=mean_of_map),
    "default, low frequencies only": Method(after=low_frequencies),
    "default, learnt without a map": Method(start_from=no_map),
    "mean difference": Method(find=difference_of_means),
    "RespoDiff's concept module": Method(RIVAL_SETTINGS, replace(DISTILLED, error=squared_error, states=respodiff)),
    "Concept Slider (LoRA)": Method(find=discover_slider),
}
"""Each method with what it changes. "+" is one change to the method above it. All cost 5,000 to 6,000 evaluations, but
for the paper's, the last three, and those that say otherwise."""
