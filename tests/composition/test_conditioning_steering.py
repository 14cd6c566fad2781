"""Steer Conditioning: one prompt of several, beside masks, areas, keyframes, other hooks and Apply."""

import comfy.hooks
import pytest
import torch

import nodes
from composition.builders import build, conditioning, sample, steered_by_hand, vector_for
from helpers import run_node
from hspace.concepts import Choice, Vector
from hspace.steering import apply_steering
from hspace.steering.hook import steer_conditioning

STRENGTH = 3.0


@pytest.fixture(scope="module")
def model():
    return build("small")


def halves(size=64):
    """A mask of the left half and one of the right half."""
    left = torch.zeros(1, size, size)
    left[..., : size // 2] = 1
    return left, 1 - left


def combined(first, second):
    return nodes.ConditioningCombine().combine(first, second)[0]


def masked(prompt, mask):
    return nodes.ConditioningSetMask().append(prompt, mask, "default", 1.0)[0]


def area(prompt, x):
    return nodes.ConditioningSetArea().append(prompt, 64, 128, x, 0, 1.0)[0]


def timed(prompt, start, end):
    return nodes.ConditioningSetTimestepRange().set_range(prompt, start, end)[0]


LEFT, RIGHT = halves()
# name: what is done to the steered prompt and to the other one before they are combined
ARRANGEMENTS = {
    "alone": (lambda p: p, None),
    "combined": (lambda p: p, lambda p: p),
    "masks": (lambda p: masked(p, LEFT), lambda p: masked(p, RIGHT)),
    "areas": (lambda p: area(p, 0), lambda p: area(p, 64)),
    "timestep ranges": (lambda p: timed(p, 0.0, 0.5), lambda p: timed(p, 0.5, 1.0)),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_steers_its_prompt_only(model, arrangement, when):
    v = vector_for(model)
    ours, theirs = ARRANGEMENTS[arrangement]
    prompt, other = conditioning(model, 11), conditioning(model, 12, tokens=9)

    def arranged(change_first, change_last):
        first = change_last(ours(change_first(prompt)))
        return first if theirs is None else combined(first, theirs(other))

    def steer(p):
        return run_node("HSpaceSteerConditioning", conditioning=p, concept=v, strength=STRENGTH)[0]

    def same(p):
        return p

    hooked = arranged(steer, same) if when == "before" else arranged(same, steer)
    found = sample(model, hooked, steps=3)
    with steered_by_hand(model, v, STRENGTH, prompt) as by_hand:
        wanted = sample(by_hand, arranged(same, same), steps=3)
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(wanted, sample(model, arranged(same, same), steps=3), atol=1e-2)


def test_window_and_keyframes(model):
    v, prompt = vector_for(model), conditioning(model, 1)
    sampling = model.get_model_object("model_sampling")
    half = sampling.percent_to_sigma(0.5)
    early = sample(model, steer_conditioning(prompt, v, STRENGTH, 0.0, 0.5), steps=6)
    with steered_by_hand(model, v, STRENGTH, prompt, (float("inf"), half)) as by_hand:
        torch.testing.assert_close(early, sample(by_hand, prompt, steps=6), rtol=2e-3, atol=2e-3)

    keyframes = comfy.hooks.HookKeyframeGroup()
    keyframes.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    keyframes.add(comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.5, guarantee_steps=0))
    keyed = steer_conditioning(prompt, v, STRENGTH, keyframes=keyframes)
    torch.testing.assert_close(sample(model, keyed, steps=6), early, rtol=2e-3, atol=2e-3)
    keyframes.keyframes[-1].strength = 1.0
    assert not torch.allclose(
        sample(model, steer_conditioning(prompt, v, STRENGTH, keyframes=keyframes), steps=6), early
    )


def test_two_in_a_row_are_their_sum_and_runs_repeat(model):
    v, w, prompt = vector_for(model), vector_for(model, seed=1), conditioning(model, 1)
    twice = steer_conditioning(steer_conditioning(prompt, v, 2.0), w, -1.0)
    once = steer_conditioning(prompt, 2.0 * v + -1.0 * w, 1.0)
    torch.testing.assert_close(sample(model, twice), sample(model, once), rtol=2e-3, atol=2e-3)
    assert torch.equal(sample(model, twice), sample(model, twice))


def test_beside_apply(model):
    v, w, prompt = vector_for(model), vector_for(model, seed=1), conditioning(model, 1)
    both = sample(apply_steering(model, v, 2.0), steer_conditioning(prompt, w, 1.0))
    torch.testing.assert_close(both, sample(apply_steering(model, 2.0 * v + w, 1.0), prompt), rtol=2e-3, atol=2e-3)


def test_each_image_its_own(model):
    v, w, prompt = vector_for(model, name="v"), vector_for(model, seed=1, name="w"), conditioning(model, 1)
    choice = Choice((v, w), (1, 1))
    for batch in (1, 4, 3):
        found = sample(model, steer_conditioning(prompt, choice, STRENGTH), batch=batch)
        torch.testing.assert_close(
            found, sample(apply_steering(model, choice, STRENGTH), prompt, batch=batch), rtol=2e-3, atol=2e-3
        )


def test_strength_0_is_no_node(model):
    prompt = conditioning(model, 1)
    assert steer_conditioning(prompt, vector_for(model), 0.0) is prompt


def test_negative_prompt_can_be_steered(model):
    v, negative = vector_for(model), conditioning(model, 2)
    found = sample(model, None, steer_conditioning(negative, v, STRENGTH))
    with steered_by_hand(model, v, STRENGTH, negative) as by_hand:
        torch.testing.assert_close(found, sample(by_hand, None, negative), rtol=2e-3, atol=2e-3)


def test_wrong_family_is_named_when_sampling_starts(model):
    stranger = Vector(torch.zeros(8, 4, 4), "stranger", "SD9")
    with pytest.raises(ValueError, match=r"'stranger' was found on SD9 with 8 channels, but the model is"):
        sample(model, steer_conditioning(conditioning(model, 1), stranger, 1.0))


def test_empty_window_is_refused(model):
    with pytest.raises(ValueError, match=r"start_percent \(0.5\) must be below end_percent"):
        steer_conditioning(conditioning(model, 1), vector_for(model), 1.0, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"end_percent: 40 is out of range. Give a number from 0, .* to 1"):
        steer_conditioning(conditioning(model, 1), vector_for(model), 1.0, 0.0, 40)
