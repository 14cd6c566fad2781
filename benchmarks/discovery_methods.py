"""Ways to find a vector, for the discovery benchmark: the paper's, ours one change at a time, and none at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from demo.captions import SKIN_TONES, caption
from hspace import Concept, Vector, apply_steering
from hspace.bottleneck import find_bottleneck
from hspace.concepts import Response, Sum
from hspace.discovery import DISTILLED, DiscoverySettings, PromptPairs, Recipe
from hspace.discovery.distilled import roll_out
from hspace.discovery.objective import alike, squared_error
from hspace.discovery.run import Run
from hspace.discovery.samples import SAMPLING_STEPS, sample_images
from hspace.discovery.streams import generator

from .baselines import mean_difference
from .capacity import Gains, NoiseLevels, discover_extended
from .common import IMAGE_SIZE, PAPER_PROTOCOL, Bench, Steer, Stream, Task
from .rivals import RIVAL_SETTINGS, discover_slider, respodiff

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
        strengths: to measure it at; None for those of the benchmark.
        steer: `steer(model, concept, strength)` instead of Apply's default.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    recipe: Recipe | None = None
    sampled_under: tuple[str, ...] = ()
    task: Callable[[Task], Task] | None = None
    start_from: Callable[[Bench, Task, int], tuple[Vector, int]] | None = None
    find: Callable[[Bench, Task, int], tuple[Concept | Steer, int]] | None = None
    strengths: tuple[float, ...] | None = None
    steer: Callable | None = None

    def __call__(self, bench: Bench, task: Task, seed: int) -> tuple[Concept | Steer, int, float]:
        """A concept or another means of steering, U-Net evaluations (images included), and seconds."""
        began = time.perf_counter()
        result, evaluations = (self.find or self._discover)(bench, task, seed)
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


def without_decay(setting: float, done: float, rms: float) -> float:
    """A learning rate relative to the RMS of h."""
    return setting * rms


def rolled_out(**options) -> Callable[[Run, list[torch.Tensor] | None], torch.Tensor]:
    """`Recipe.states` that are `roll_out` with these options."""

    def states(run: Run, samples: list[torch.Tensor] | None) -> torch.Tensor:
        return roll_out(run, **options)

    return states


def with_pairs_that_want_no_change(task: Task) -> Task:
    """Beside each pair one whose base prompt says the concept already.

    The teacher wants no change there, and a vector that makes one pays for it.
    """
    return replace(task, concept=2 * task.concept, base=task.base + task.concept)


def first_pairs(task: Task, count: int) -> Task:
    """The task with its first pairs."""
    return replace(task, concept=task.concept[:count], base=task.base[:count], avoid=task.avoid and task.avoid[:count])


def sides_shuffled(task: Task) -> Task:
    """A control: each pair one way round and then the other, so that as many images ask for the one as for the other.

    That is not nothing. A base prompt that leaves the concept open has little against it where an image shows it, and
    at any one prompt the same is always asked for, which a response can tell.
    """
    by_turns = [pair for both in zip(task.concept, task.base, strict=True) for pair in (both, both[::-1])]
    concept, base = (list(side) for side in zip(*by_turns, strict=True))
    return replace(task, concept=concept, base=base, avoid=None)


def opposites_exchanged(task: Task) -> Task:
    """A control: as `sides_shuffled`, between the concept and its opposite, so that both ways ask for as much."""
    return sides_shuffled(replace(task, base=[caption(p, **{task.attribute: 0}) for p in task.learn_professions]))


def difference_of_means(bench: Bench, task: Task, seed: int, **options) -> tuple[Vector, int]:
    """The mean difference of h, and what it cost."""
    model, clip, _ = bench.parts
    return mean_difference(model, clip, task.concept, task.base, task.name, seed=seed, **options)


def by_default(bench: Bench, task: Task, seed: int) -> tuple[Vector, int]:
    """The default's vector, and what it cost."""
    key = bench, task.name, seed
    if key not in _found:
        discovery, _ = bench.discover(task, seed=seed)
        _found[key] = discovery.vector, discovery.evaluations
    return _found[key]


_found: dict[tuple[Bench, str, int], tuple[Vector, int]] = {}


def mean_of_runs(bench: Bench, task: Task, seed: int, *, count: int) -> tuple[Concept, int]:
    """The mean of the default's vectors of several seeds."""
    found = [by_default(bench, task, 100 * seed + run) for run in range(count)]
    vectors, evaluations = zip(*found, strict=True)
    return Sum(tuple((1 / count, vector) for vector in vectors)), sum(evaluations)


def away_from_neighbours(task: Task) -> Task:
    """The task with an avoid prompt a pair: a skin tone beside the wanted one, in turn the lighter and the darker."""
    if task.attribute != "skin_tone":
        return task
    beside = [tone for tone in (task.value - 1, task.value + 1) if 0 <= tone < len(SKIN_TONES)]
    professions = task.learn_professions
    return replace(task, avoid=[caption(p, skin_tone=beside[i % len(beside)]) for i, p in enumerate(professions)])


def at_random(bench: Bench, task: Task, seed: int) -> tuple[Vector, int]:
    """A control: random directions, and random responses, each as long as the default's vector is at that site."""
    vector, _ = by_default(bench, task, seed)
    random = generator(seed, Stream.RANDOM_VECTOR)

    def alike(tensor: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(tensor.shape, generator=random)
        return drawn * tensor.norm() / drawn.norm()

    tensors = {site: alike(tensor) for site, tensor in vector.tensors.items()}
    responses = {site: Response(*map(alike, response)) for site, response in vector.responses.items()}
    return replace(vector, tensor=tensors.pop(0), decoder=tensors, responses=responses), 0


def without(bench: Bench, task: Task, seed: int, *, sites: Collection[int]) -> tuple[Vector, int]:
    """The default's vector without some of its sites, which nothing was learnt anew for."""
    vector, evaluations = by_default(bench, task, seed)
    decoder, responses = (
        {site: part for site, part in parts.items() if site not in sites}
        for parts in (vector.decoder, vector.responses)
    )
    vector = replace(vector, tensor=vector.tensor * (0 not in sites), decoder=decoder, responses=responses)
    return vector, evaluations


def zeros(bench: Bench, task: Task, seed: int, *, maps: Collection[int]) -> tuple[Vector, int]:
    """Zeros to start from: maps at some sites, one value a channel at the others."""
    bottleneck = find_bottleneck(bench.parts[0])
    tensors = {
        site: torch.zeros(channels, *(bottleneck.map_size(*LATENT_SHAPE[1:], site) if site in maps else (1, 1)))
        for site, (channels, _) in enumerate(bottleneck.decoder)
    }
    return Vector(tensors.pop(0), task.name, bottleneck.family, decoder=tensors), 0


def steer_both_halves(model, concept: Vector, strength: float):
    """The unconditional half the other way, by half as much."""
    return apply_steering(apply_steering(model, concept, strength), concept, -0.5 * strength, half="negative")


_ALL_THAT_IS_ASKED = replace(DISTILLED, error=squared_error, weight=alike)
"""The weight of a state is the square of the default's."""
_NOT_CALIBRATED = {"calibrate": False}
_NOISED = {"sample_count": 62, "steps": 104, "calibrate": False}
"""2,480 evaluations for images, 3,328 for learning."""
_CONSTANTS = {"response_rank": 0}
_FAR = (1.0, 2.0, 4.0, 8.0)
"""Strengths of vectors that nothing was scaled for."""

PUBLISHED = "paper, as published"
PAPERS_LOSS = "paper's loss"
DEFAULT = "default"
CONSTANTS = "constants alone"
BEFORE, BEFORE_THAT = "the default before", "the default before that"
RANDOM, SHUFFLED, EXCHANGED = (
    "control: random vector",
    "control: sides shuffled",
    "control: opposites exchanged, constants alone",
)
RIVALS = {
    DEFAULT: Method(find=by_default),
    CONSTANTS: Method(_CONSTANTS),
    "constants alone, 50 steps": Method({"steps": 50, "sample_count": 45, **_CONSTANTS}),
    "bottleneck only": Method({"sites": "bottleneck", **_CONSTANTS}),
    PUBLISHED: Method(PAPER_PROTOCOL),
    PAPERS_LOSS: Method({"method": "paper", "sample_count": 62, "steps": 156}),
    "mean difference of h": Method(find=difference_of_means, strengths=_FAR),
    "mean difference at all sites": Method(find=partial(difference_of_means, all_sites=True), strengths=_FAR),
    "RespoDiff's concept module": Method(
        {**RIVAL_SETTINGS, "sites": "bottleneck"},
        replace(DISTILLED, error=squared_error, weight=alike, states=respodiff),
    ),
    "Concept Slider (LoRA)": Method(find=discover_slider),
    RANDOM: Method(find=at_random),
    SHUFFLED: Method(_NOT_CALIBRATED, task=sides_shuffled),
    EXCHANGED: Method(_NOT_CALIBRATED | _CONSTANTS, task=opposites_exchanged),
}
"""The default, what people would take instead of it, and controls, which were to do nothing."""
LADDER = {
    "default, on images": Method(_NOISED, sampled_under=("concept",)),
    "default, on images, every state alike": Method(
        _NOISED, replace(DISTILLED, weight=alike), sampled_under=("concept",)
    ),
    BEFORE: Method(
        {"guidance": 2.0, "sample_count": 56, **_CONSTANTS},
        replace(_ALL_THAT_IS_ASKED, states=rolled_out(spread=False)),
    ),
    BEFORE_THAT: Method(
        {"sample_count": 56, **_CONSTANTS}, replace(DISTILLED, weight=alike, states=rolled_out(spread=False))
    ),
    "default, one noise level a batch": Method(recipe=replace(DISTILLED, states=rolled_out(spread=False))),
    "default, half as many images": Method({"sample_count": 56}),
    "default, every state alike": Method(recipe=replace(DISTILLED, weight=alike)),
    "default, by all that is asked": Method(recipe=_ALL_THAT_IS_ASKED),
    "default, that and guidance 2": Method({"guidance": 2.0}, _ALL_THAT_IS_ASKED),
    "default, not scaled": Method(_NOT_CALIBRATED),
    "default, guidance 1": Method({"guidance": 1.0}),
    "default, guidance 2": Method({"guidance": 2.0}),
    "default, guidance 5": Method({"guidance": 5.0}),
    "default, rate 0.05": Method({"learning_rate": 0.05}),
    "default, rate 0.2": Method({"learning_rate": 0.2}),
    "default, batch 4": Method({"batch_size": 4, "steps": 250}),
    "default, 109 steps": Method({"steps": 109}),
    "default, 300 steps": Method({"steps": 300, "sample_count": 270}),
    "default, 1,000 steps": Method({"steps": 1000, "sample_count": 890}),
    "default, mean of three runs": Method(find=partial(mean_of_runs, count=3)),
    "default, away from the tones beside it": Method(task=away_from_neighbours),
    "default, the noisier 70 % only": Method(recipe=replace(DISTILLED, states=rolled_out(until=0.7))),
    "default, paths without guidance": Method(recipe=replace(DISTILLED, states=rolled_out(cfg=1.0))),
    "default, weighted by min-SNR": Method(recipe=replace(DISTILLED, error=min_snr, weight=alike)),
    "default, no decay": Method(recipe=replace(DISTILLED, learning_rate=without_decay)),
    "default, one pair": Method(task=partial(first_pairs, count=1)),
    "default, four pairs": Method(task=partial(first_pairs, count=4)),
    "default, sixteen pairs": Method(task=partial(first_pairs, count=16)),
    "default, pairs that want no change": Method(task=with_pairs_that_want_no_change),
    "default, other half steered back": Method(find=by_default, steer=steer_both_halves),
    "default, a map in the bottleneck": Method(start_from=partial(zeros, maps=[0])),
    "default, a map there at first": Method({"spatial_mean": True}, start_from=partial(zeros, maps=[0])),
    "default, maps at all sites": Method(start_from=partial(zeros, maps=range(6))),
    "constants, and by noise level": Method(find=partial(discover_extended, extension=NoiseLevels(3))),
    "constants, and gains": Method(find=partial(discover_extended, extension=Gains(0.1))),
    **{f"default, responses of rank {rank}": Method({"response_rank": rank}) for rank in (4, 64)},
    **{f"default without site {site}": Method(find=partial(without, sites=[site])) for site in range(6)},
}
"""One change each."""
METHODS = RIVALS | LADDER
"""All cost about 5,000 evaluations but for the mean differences, the published protocol, RespoDiff, the slider, and
those that say otherwise."""
