"""Ways to find a vector, for the discovery benchmark: the paper's, ours one change at a time, and none at all."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F

from ..hspace import discovery, learner, states
from ..hspace.concept import Direction
from ..hspace.objective import mean_square
from ..hspace.settings import DiscoverySettings
from ..hspace.site import find_site
from ..hspace.states import run_noise
from ..hspace.steering import apply_steering
from .baselines import mean_difference
from .capacity import LowRank, NoiseLevels, SecondSite, find_extended
from .common import PAPER, Bench, Steer, Task
from .rivals import (
    RIVAL_SETTINGS,
    AveragingLearner,
    learn_and_keep_best,
    learn_on_kept_states,
    learn_respodiff,
    learn_second_order,
    learn_slider,
    with_slider,
)

MEAN_DIFFERENCE_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to find a vector.

    Attributes:
        settings: of `DiscoverySettings`, where they are not the defaults.
        own_samples: draw `sample_count` images first, and learn from those, noised: under the prompts of these roles,
            "concept" or "base", as many under each.
        overrides: (module, name, value) for the time of the discovery; what the product does not offer.
        after: what is done to the finished tensor.
        steer: `steer(model, concept, strength)` instead of Apply's default.
        find: instead of all that.
    """

    settings: dict = dataclasses.field(default_factory=dict)
    own_samples: tuple[str, ...] = ()
    overrides: tuple = ()
    after: Callable[[torch.Tensor], torch.Tensor] | None = None
    steer: Callable | None = None
    find: Callable[[Bench, Task, int], tuple[Direction | Steer, int]] | None = None

    def __call__(self, bench: Bench, task: Task, seed: int) -> tuple[Direction | Steer, int, float]:
        """What was found, U-Net sample evaluations (images included), and seconds."""
        began = time.perf_counter()
        if self.find:
            direction, evaluations = self.find(bench, task, seed)
        else:
            with contextlib.ExitStack() as stack:
                for module, name, value in self.overrides:
                    stack.enter_context(patch.object(module, name, value))
                direction, evaluations = self._discover(bench, task, seed)
        if self.after:
            direction = dataclasses.replace(direction, tensor=self.after(direction.tensor))
        found = partial(self.steer, concept=direction) if self.steer else direction
        return found, evaluations, time.perf_counter() - began

    def _discover(self, bench: Bench, task: Task, seed: int) -> tuple[Direction, int]:
        settings = {"seed": seed, "calibrate": False, **self.settings}
        samples, drawn = None, 0
        if self.own_samples:
            options = DiscoverySettings(task.name, **{"width": 128, "height": 128, **settings})
            options = dataclasses.replace(options, sample_count=options.sample_count // len(self.own_samples))
            batches = []
            with torch.inference_mode():
                for role in self.own_samples:
                    prompts = bench.conditioning(getattr(task, role))
                    avoid = bench.conditioning(task.avoid) if task.avoid and role == "concept" else None
                    batches.append(states.draw_samples(bench.parts[0], prompts, avoid, options, (4, 16, 16)))
            # Image i belongs to pair i modulo their number, so each batch ends with a whole round of pairs.
            samples = torch.cat([batch[: len(batch) // len(task.base) * len(task.base)] for batch in batches])
            drawn = sum(map(len, batches)) * states.SAMPLING_STEPS * 2
        found, _ = bench.discover(task, samples=samples, **settings)
        return found.direction, found.evaluations + drawn


def _unweighted(predicted, target, base, scale):
    return mean_square((predicted - target) * scale)


def _mean_difference(bench: Bench, task: Task, seed: int) -> tuple[Direction, int]:
    model, clip, _ = bench.parts
    if task.avoid:  # what it must lack is the concept's opposite
        away = mean_difference(model, clip, task.avoid, task.base, task.name, MEAN_DIFFERENCE_IMAGES, seed)
        direction = dataclasses.replace(away, tensor=-away.tensor)
    else:
        direction = mean_difference(model, clip, task.concept, task.base, task.name, MEAN_DIFFERENCE_IMAGES, seed)
    return direction, MEAN_DIFFERENCE_IMAGES * 20 * 3


def _min_snr(predicted, target, base, scale):
    """Hang et al. (ICCV 2023), gamma 5, for epsilon-prediction, where `scale` is 1 / sigma."""
    snr = scale.flatten() ** 2
    return _unweighted(predicted, target, base, scale) * snr.clamp(max=5) / snr


def _anywhere(u: torch.Tensor) -> torch.Tensor:
    return states.LEARN_UNTIL * u


def _one_noise(learner, shape: torch.Size) -> torch.Tensor:
    """The same for all runs."""
    return torch.randn(shape, generator=states.generator_for(learner.settings.seed, 2, 0))


def _constant_rate(learner):
    return learner.settings.learning_rate * learner.rms


def _from_mean_difference(bench: Bench, task: Task, seed: int) -> tuple[Direction, int]:
    model, clip, _ = bench.parts
    start = mean_difference(model, clip, task.concept, task.base, task.name, 8, seed)
    found, _ = bench.discover(task, seed=seed, start_from=start)
    return found.direction, found.evaluations + 8 * 20 * 3


def _without_map(bench: Bench, task: Task, seed: int) -> tuple[Direction, int]:
    site = find_site(bench.parts[0])
    start = Direction(torch.zeros(site.channels, 1, 1), task.name, site.family)
    found, _ = bench.discover(task, seed=seed, start_from=start)
    return found.direction, found.evaluations


def _one_pair(bench: Bench, task: Task, seed: int) -> tuple[Direction, int]:
    found, _ = bench.discover(dataclasses.replace(task, concept=task.concept[:1], base=task.base[:1]), seed=seed)
    return found.direction, found.evaluations


def _antithetic(learner, shape: torch.Size) -> torch.Tensor:
    """Each noise in a batch with its negative."""
    half = run_noise(learner, (shape[0] // 2, *shape[1:]))
    return torch.cat([half, -half])


def _asking_for_nothing(bench: Bench, task: Task, seed: int) -> tuple[Direction, int]:
    """Beside each pair one whose base prompt says the concept already: the teacher wants no change there, and a vector that
    makes one pays for it."""
    task = dataclasses.replace(task, concept=2 * task.concept, base=task.base + task.concept)
    found, _ = bench.discover(task, seed=seed)
    return found.direction, found.evaluations


def _low_frequencies(tensor: torch.Tensor) -> torch.Tensor:
    pooled = F.adaptive_avg_pool2d(tensor[None], 2)
    return F.interpolate(pooled, size=tensor.shape[1:], mode="bilinear", align_corners=False)[0]


def _both_halves(model, concept, strength):
    """The unconditional half the other way, by half as much."""
    return apply_steering(apply_steering(model, concept, strength), concept, -0.5 * strength, branch="negative")


def _slider(bench: Bench, task: Task, seed: int) -> tuple[Steer, int]:
    found: dict[str, torch.Tensor] = {}
    with patch.object(discovery, "roll_out", partial(learn_slider, found)):
        result, _ = bench.discover(task, seed=seed, **RIVAL_SETTINGS)
    return partial(with_slider, found=found), result.evaluations


def _spatial_mean(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mean((1, 2), keepdim=True).expand_as(tensor).contiguous()


_NOISIER = (states, "LEARN_UNTIL", 0.7)
_UNWEIGHTED = (learner, "relative_error", _unweighted)
_NOISED = {"sample_count": 62, "steps": 104}  # 2,480 evaluations of images, 3,328 of learning

PUBLISHED = "paper, as published"
DEFAULT = "+ calibrated (default)"
SPATIAL_MEAN = "default, spatial_mean on"
METHODS = {
    PUBLISHED: Method(PAPER),
    "paper's loss": Method({"method": "paper", "sample_count": 62, "steps": 156}),
    "+ teacher instead of noise": Method(_NOISED, own_samples=("concept",), overrides=(_UNWEIGHTED,)),
    "+ each sample relative": Method(_NOISED, own_samples=("concept",)),
    "relative, t not stratified": Method(
        _NOISED, own_samples=("concept",), overrides=((states, "stratified", _anywhere),)
    ),
    "relative, images of the base prompts": Method(_NOISED, own_samples=("base",)),
    "relative, images of both": Method({**_NOISED, "sample_count": 64}, own_samples=("concept", "base")),
    "+ on the sampler's path": Method(),
    DEFAULT: Method({"calibrate": True}),
    "default, guidance 1": Method({"calibrate": True, "guidance": 1.0}),
    "default, guidance 2": Method({"calibrate": True, "guidance": 2.0}),
    "default, guidance 5": Method({"calibrate": True, "guidance": 5.0}),
    "default, rate 0.05": Method({"calibrate": True, "learning_rate": 0.05}),
    "default, rate 0.2": Method({"calibrate": True, "learning_rate": 0.2}),
    "default, batch 4": Method({"calibrate": True, "batch_size": 4, "steps": 250}),
    "default, 50 steps": Method({"calibrate": True, "steps": 50, "sample_count": 24}),
    "default, 300 steps": Method({"calibrate": True, "steps": 300, "sample_count": 128}),
    "default, the noisier 70 % only": Method({"calibrate": True}, overrides=(_NOISIER,)),
    "default, paths without guidance": Method({"calibrate": True}, overrides=((states, "ROLL_OUT_CFG", 1.0),)),
    "default, weighted by min-SNR": Method({"calibrate": True}, overrides=((learner, "relative_error", _min_snr),)),
    "default, no decay": Method({"calibrate": True}, overrides=((learner.Learner, "_learning_rate", _constant_rate),)),
    "default, no decay, averaged": Method(
        {"calibrate": True},
        overrides=(
            (learner.Learner, "_learning_rate", _constant_rate),
            (discovery, "Learner", AveragingLearner),
        ),
    ),
    "default, noise and its negative": Method({"calibrate": True}, overrides=((states, "run_noise", _antithetic),)),
    "default, one noise for all runs": Method({"calibrate": True}, overrides=((states, "run_noise", _one_noise),)),
    "default, best of a fixed set": Method(
        {"calibrate": True, "steps": 105}, overrides=((discovery, "roll_out", learn_and_keep_best),)
    ),
    "default, pairs that want no change": Method(find=_asking_for_nothing),
    "default, states kept and reused": Method(
        {"calibrate": True, "steps": 229}, overrides=((discovery, "roll_out", learn_on_kept_states),)
    ),
    "default, from mean difference": Method(find=_from_mean_difference),
    "default, one pair": Method(find=_one_pair),
    "L-BFGS on a fixed set": Method(overrides=((discovery, "roll_out", learn_second_order),)),
    "default, steering 70 % of sampling": Method({"calibrate": True}, steer=partial(apply_steering, end_percent=0.7)),
    "default, other half steered back": Method({"calibrate": True}, steer=_both_halves),
    "default, and by noise level": Method(find=partial(find_extended, NoiseLevels(3))),
    "default, and a map of rank 8": Method(find=partial(find_extended, LowRank(8))),
    "default, and a second site": Method(find=partial(find_extended, SecondSite(("output", 3), (192, 8, 8)))),
    SPATIAL_MEAN: Method({"calibrate": True, "spatial_mean": True}),
    "default, averaged when finished": Method({"calibrate": True}, after=_spatial_mean),
    "default, low frequencies only": Method({"calibrate": True}, after=_low_frequencies),
    "default, learnt without a map": Method(find=_without_map),
    "mean difference": Method(find=_mean_difference),
    "RespoDiff's concept module": Method(
        RIVAL_SETTINGS, overrides=(_UNWEIGHTED, (discovery, "roll_out", learn_respodiff))
    ),
    "Concept Slider (LoRA)": Method(find=_slider),
}
"""Each method with what it changes. "+" is one change to the method above it. All cost 5,000 to 6,000 evaluations, but for
the paper's, the last three, and those that say otherwise."""
