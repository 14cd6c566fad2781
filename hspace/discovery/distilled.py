"""Distillation of the model's own prediction under the concept prompt.

    min_c  E_{x_t, t}  || target - eps_theta(x_t, t, y-; h + c) ||^2 / || target - eps_theta(x_t, t, y-) ||
    target = eps_theta(x_t, t, y-) + g (eps_theta(x_t, t, y+) - eps_theta(x_t, t, y-))

The target is not the sampled noise, whose variance dominates the paper's loss. The states x_t are those of sampling
runs under y-, steered by c as it is so far: the roll-outs that a sampler makes anyway, with one optimiser step at each
batch of states, so no image has to be sampled beforehand. With given samples, the states are those, noised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from .objective import Reach, mean_square, named_concept, prediction_scale, relative_reach
from .roll_out_schedule import Place, RollOutSchedule, RollOutState
from .samples import SampleBatches
from .streams import Stream

if TYPE_CHECKING:
    from .run import Run

ROLL_OUT_CFG = 4.0
STATES_PER_ROLL_OUT = (8, 50)
LEARN_UNTIL = 0.98
"""Share of the noise schedule; at its very end there is no noise left to predict."""
CLEAR_FROM = 0.75
"""Share of the noise schedule after which a state is clear: its image has all but its details."""
COMPARED_AT, LITTLE = 2, 0.25
"""The step at which the concept's change is compared with the prompt's, and the share of it that may be noise.

On the emoji model, whose people have light skin anyway, the words "light skin" change 0.2 of what a prompt changes;
other concepts change 0.7 to 1.1.
"""
KEPT = 0.05
"""What changes in an image to keep counts as a share of this much of what is asked of the others, in mean squares: as
half of the images that little is asked of, which count as a tenth of the mean of all (`objective.requested_change`)."""


def learn(run: Run, samples: list[torch.Tensor] | None) -> torch.Tensor:
    """Learn c on roll-outs, or on noised LATENT images; returns the roll-outs' images, or the first of those given."""
    return roll_out(run) if samples is None else learn_from_samples(run, samples)


def start_noise(run: Run, number: int, image: int) -> torch.Tensor:
    """Standard normal noise `[C, h, w]` for sampling run `number` of an image of the batch."""
    return torch.randn(run.shape[1:], generator=run.random(Stream.ROLL_OUT_START, number, image))


def stratified(u: torch.Tensor) -> torch.Tensor:
    """Places in the noise schedule for a batch, one in each equal part of it, from uniform numbers `[B]`."""
    return LEARN_UNTIL * (torch.arange(len(u)) + u) / len(u)


def roll_out(run: Run, *, cfg: float = ROLL_OUT_CFG, until: float = LEARN_UNTIL, spread: bool = True) -> torch.Tensor:
    """Euler sampling runs steered by c as it is so far, with one optimiser step at each batch of their states.

    Args:
        cfg: guidance of the runs.
        until: share of the noise schedule to visit.
        spread: whether a batch holds states of all noise levels, unless the prompts or the user's patches forbid it.

    Returns:
        Images `[n, C, h, w]` as they were predicted at the end of each whole run, and as they are at the end of all.
    """
    sigmas = roll_out_sigmas(run, until).tolist()
    spread = spread and run.model.may_mix_noise_levels
    x, schedule = _begun(run, sigmas, spread)
    if run.finished:  # it was stopped while its length was measured
        return _ended(run, x, schedule.at(run.optimiser.step - 1), cfg)
    images: list[torch.Tensor] = []
    while not run.finished:
        places = schedule.at(run.optimiser.step)
        x = x.clone()  # whoever holds the state of the step before keeps it as it was
        for image, place in enumerate(places):
            if place.begins:
                noise = start_noise(run, place.run, image)[None].to(run.device)
                x[image] = run.model.pure_noise(noise, x.new_tensor(place.sigma))[0]
        pairs = _pairs(run, places)
        level = x.new_tensor([place.sigma for place in places])
        following = x.new_tensor([place.next_sigma for place in places])
        student = teach(run, x, level, pairs)
        denoised = _guided(run, student, x, level, cfg)
        x = x + (x - denoised) * ((following - level) / level).view(-1, 1, 1, 1)
        run.roll_out = RollOutState(x, following, schedule.began)
        images += [denoised[i] for i, place in enumerate(places) if place.whole and not place.next_sigma]
        run.report(denoised)
    underway = [denoised[i] for i, place in enumerate(places) if place.next_sigma or not place.whole]
    return torch.stack(images + underway)


def _ended(run: Run, x: torch.Tensor, places: list[Place], cfg: float) -> torch.Tensor:
    """The images that sampling runs which take no further step are on the way to.

    Args:
        x: states after the last step.
        places: of the images at that step.
    """
    model, pairs = run.model, _pairs(run, places)
    level = x.new_tensor([place.next_sigma for place in places])

    def steered(part: slice) -> torch.Tensor:
        prompts = model.prompts.prompts_of("base", pairs[part])
        return model.predict([prompts], x[part], level[part], add=run.optimiser.addition)[0]

    return _guided(run, run.in_parts(steered, len(x)), x, level, cfg)


def _pairs(run: Run, places: list[Place]) -> list[int]:
    """The pair of each image of the batch."""
    of_run = {number: run.pairs(number) for number in {place.run for place in places}}
    return [of_run[place.run][image] for image, place in enumerate(places)]


def _guided(run: Run, student: torch.Tensor, x: torch.Tensor, level: torch.Tensor, cfg: float) -> torch.Tensor:
    return run.in_parts(lambda part: run.model.guide(student[part], x[part], level[part], cfg), len(x))


def _begun(run: Run, sigmas: list[float], spread: bool) -> tuple[torch.Tensor, RollOutSchedule]:
    """The states `[B, C, h, w]` and the schedule that a stopped discovery goes on with, or new ones."""
    step, batch = run.optimiser.step, run.shape[0]
    if run.roll_out is not None:
        x, sigma, began = run.roll_out
        schedule = RollOutSchedule(sigmas, batch, spread=spread, began=began)
        # A run with fewer steps than the stopped one goes on at an earlier step, perhaps one before its sampling runs.
        same_place = step > began and sigma.tolist() == x.new_tensor(schedule.before(step)).tolist()
        if same_place and x.shape == run.shape:
            return x, schedule
        run.observer.note(
            "start_from was stopped in the middle of sampling runs of another size, batch_size or number of steps; the "
            "vector goes on, with new sampling runs."
        )
        if run.finished:
            step = run.optimiser.take_back()
    return torch.zeros(run.shape, device=run.device), RollOutSchedule(sigmas, batch, spread=spread, began=step)


def learn_from_samples(
    run: Run, samples: list[torch.Tensor], *, places: Callable[[torch.Tensor], torch.Tensor] = stratified
) -> torch.Tensor:
    """Given images, noised, as states; returns the first of them.

    Args:
        samples: LATENT values, batches `[n, C, h, w]`.
        places: places in the noise schedule for a batch, from uniform numbers `[B]`.
    """
    batches = SampleBatches(run, samples)
    while not run.finished:
        x0, pairs, random = batches.next()
        sigma = batches.sigma(places(torch.rand(len(x0), generator=random)))
        eps = torch.randn(x0.shape, generator=random).to(x0)
        x = run.model.sampling.noise_scaling(sigma, eps, x0, False)
        run.report(teach(run, x, sigma, pairs))
    return batches.first


def teach(run: Run, x: torch.Tensor, sigma: torch.Tensor, pairs: list[int]) -> torch.Tensor:
    """One step towards the teacher at the states `x` `[B, C, h, w]`; returns the student's prediction there."""

    def study(part: slice) -> torch.Tensor:
        prompts = run.model.prompts.of_images(pairs[part])
        with torch.no_grad():
            predictions = run.model.predict(list(prompts.values()), x[part], sigma[part])
        by_role = dict(zip(prompts, predictions, strict=True))
        target = run.recipe.target(by_role, run.settings.guidance)
        asking = run.model.prompts.asking(pairs[part]).to(x.device)
        if run.optimiser.step == COMPARED_AT and part.start == 0:
            _note_little_change(run, target, by_role["base"], x[part], sigma[part], asking)
        return approach(run, target, x[part], sigma[part], prompts["base"], by_role, asking)

    return run.step(study, len(x))


def approach(
    run: Run,
    target: torch.Tensor,
    x: torch.Tensor,
    sigma: torch.Tensor,
    prompts: list[dict],
    frozen: Mapping[str, torch.Tensor],
    asking: torch.Tensor,
) -> torch.Tensor:
    """The backward pass of a step towards a target at the states `x`; returns the student's prediction there.

    Args:
        prompts: the base prompts.
        frozen: what the frozen model predicts, by role.
        asking: bool `[B]`, false for images of prompts to keep, which have no concept to reach.
    """
    optimiser, base = run.optimiser, frozen["base"]
    if optimiser.rms is None:
        optimiser.rms = run.model.h_rms(prompts, x, sigma, optimiser.tensors)
    scale = prediction_scale(run.model.sampling, sigma)
    with torch.enable_grad():
        (student,) = run.model.predict([prompts], x, sigma, add=optimiser.addition)
        compared, change = (student, target, base), None
        if run.model.prompts.kept:
            compared = _as_if_asked(*compared, scale, asking, KEPT * optimiser.change_asked)
            change = mean_square((target - base) * scale)[asking]
        errors = run.recipe.error(*compared, scale)
        student = student.detach()
        reach = None
        if optimiser.near_end and asking.any():
            values = relative_reach(student[asking], named_concept(frozen)[asking], base[asking], scale[asking])
            reach = Reach(values, sigma[asking] <= run.model.sampling.percent_to_sigma(CLEAR_FROM))
        run.backward(errors, run.recipe.weight(*compared[1:], scale), reach, change)
    return student


def _as_if_asked(
    student: torch.Tensor,
    target: torch.Tensor,
    base: torch.Tensor,
    scale: torch.Tensor,
    asking: torch.Tensor,
    change: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`student`, `target` and `base` for a recipe's error and weight, `[B, C, h, w]` each.

    An image to keep counts as one whose teacher asks for a change of this mean square, all of which is done but for
    what the vector moved. Its own teacher asks for none, which a relative error cannot be a share of.
    """
    asking, asked = asking.view(-1, 1, 1, 1), change**0.5 / scale
    moved = student - base
    return (
        torch.where(asking, student, asked + moved),
        torch.where(asking, target, asked),
        torch.where(asking, base, 0.0),
    )


@torch.no_grad()
def _note_little_change(
    run: Run, target: torch.Tensor, base: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor, asking: torch.Tensor
) -> None:
    """Tell the observer where the teacher asks for little of what the base prompt itself changes."""
    if not asking.any():
        return
    with run.model.uncounted():
        (empty,) = run.model.predict([run.model.prompts.empty], x, sigma)
    scale = prediction_scale(run.model.sampling, sigma)
    asked = mean_square((target - base) * scale)[asking].mean().sqrt() / run.settings.guidance
    share = (asked / mean_square((base - empty) * scale)[asking].mean().sqrt().clamp_min(1e-12)).item()
    if share < LITTLE:
        run.observer.note(
            f"The concept changes only {100 * share:.0f} % of what the base prompt itself changes, so there may be "
            "nothing to learn: the model seems to show the concept anyway. Name it more clearly, or choose a base "
            "prompt that shows less of it."
        )


def roll_out_sigmas(run: Run, until: float = LEARN_UNTIL) -> torch.Tensor:
    """The states of one roll-out: a sampling schedule without its end, float32 on the CPU.

    Its density makes `sample_count` images, `batch_size` at a time, take `steps` optimiser steps in all.
    """
    settings, sampling = run.settings, run.model.sampling
    runs = max(1, round(settings.sample_count / settings.batch_size))
    least, most = STATES_PER_ROLL_OUT
    states = min(max(round(settings.steps / runs), least), most)
    whole = run.model.sigmas(round(states / until))
    return whole[whole >= sampling.percent_to_sigma(until)]
