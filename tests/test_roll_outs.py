"""The sampling runs that discovery learns on: where each image is, and what happens where levels may not be mixed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from helpers import conditioning, tiny_model
from hspace.discovery import DISTILLED, DiscoverySettings, PromptPairs, discover
from hspace.discovery.objective import by_requested_change
from hspace.discovery.roll_out_schedule import RollOutSchedule

SIGMAS = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 16])
def test_each_image_goes_down_the_schedule_and_begins_anew(batch):
    schedule = RollOutSchedule(SIGMAS, batch, spread=True)
    steps = [schedule.at(step) for step in range(40)]
    for image in range(batch):
        places = [places[image] for places in steps]
        assert places[0].begins
        assert places[0].sigma == SIGMAS[0]
        assert places[0].run == 0
        for place, after in itertools.pairwise(places):
            if place.next_sigma:
                assert after.sigma == place.next_sigma < place.sigma
                assert after.run == place.run
                assert not after.begins
            else:
                assert after.begins
                assert after.sigma == SIGMAS[0]
                assert after.run == place.run + 1


@pytest.mark.parametrize("batch", [2, 4, 8])
def test_levels_are_spread_evenly_after_the_first_runs(batch):
    schedule = RollOutSchedule(SIGMAS, batch, spread=True)
    for step in range(len(SIGMAS), 40):
        places = sorted(SIGMAS.index(place.sigma) for place in schedule.at(step))
        gaps = [after - before for before, after in zip(places, [*places[1:], places[0] + 8], strict=True)]
        assert set(gaps) == {8 // batch}


def test_not_spread_all_images_share_their_level():
    schedule = RollOutSchedule(SIGMAS, 4, spread=False)
    assert all(len({place.sigma for place in schedule.at(step)}) == 1 for step in range(20))


def test_what_comes_before_a_step():
    schedule = RollOutSchedule(SIGMAS, 4, spread=True, began=3)
    assert schedule.before(5) == [place.sigma if not place.begins else 0.0 for place in schedule.at(5)]


def test_only_whole_runs_count_as_images():
    schedule = RollOutSchedule(SIGMAS, 4, spread=True)
    assert [place.whole for place in schedule.at(0)] == [True, False, False, False]
    assert all(place.whole for place in schedule.at(10))


def levels(model, options):
    """The noise levels of each step of a discovery, a set a step, its last images, and what `options` of prompts do."""
    seen = []

    def weight(target, base, scale):
        seen.append({round(value, 4) for value in scale.flatten().tolist()})
        return by_requested_change(target, base, scale)

    concept, base = ([[embedding, options]] for ((embedding, _),) in (conditioning(1), conditioning(2)))
    settings = DiscoverySettings("test", steps=12, batch_size=4, sample_count=8, width=128, height=128, calibrate=False)
    with torch.inference_mode():
        discovery = discover(model, PromptPairs(concept, base), settings, recipe=replace(DISTILLED, weight=weight))
    assert len(seen) == 12
    assert len(discovery.samples[0]) >= 4
    return seen


def test_a_batch_holds_levels_of_the_whole_schedule():
    assert [len(step) for step in levels(tiny_model(), {})][4:] == [4] * 8


def test_prompts_with_a_time_range_share_a_level():
    """ComfyUI compares the range with the level of the first image."""
    assert all(len(step) == 1 for step in levels(tiny_model(), {"start_percent": 0.0, "end_percent": 1.0}))


@pytest.mark.parametrize("kind", ["input_block_patch", "wrapper", "function_wrapper"])
def test_patches_that_may_read_one_level_share_a_level(kind):
    model = tiny_model()
    if kind == "input_block_patch":
        model.set_model_input_block_patch(lambda h, options: h)
    elif kind == "wrapper":
        model.add_wrapper("diffusion_model", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    else:
        model.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
    assert all(len(step) == 1 for step in levels(model, {}))
