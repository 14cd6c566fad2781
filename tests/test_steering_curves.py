"""A strength that changes over the window: exactly the one that a loop by hand gives."""

import pytest
import torch

from helpers import TinyVPrediction, conditioning, random_vector, record_h, run_node, sample, tiny_model
from hspace.bottleneck import find_bottleneck
from hspace.steering import SCHEDULES, apply_steering

V = random_vector(shape=(64, 1, 1))
STRENGTH = 2.0


@pytest.fixture(scope="module", params=[None, TinyVPrediction], ids=["epsilon", "v"])
def model(request):
    return tiny_model() if request.param is None else tiny_model(config_class=request.param)


def factor_by_hand(model, sigma: float, window, factors) -> float:
    """The percent whose sigma it is, by bisection, and the factor there."""
    percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    if not percent_to_sigma(window[0]) >= sigma >= percent_to_sigma(window[1]):
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if percent_to_sigma(middle) > sigma else (low, middle)
    place = min(max((low - window[0]) / (window[1] - window[0]), 0), 1) * (len(factors) - 1)
    left = min(int(place), len(factors) - 2)
    return factors[left] + (factors[left + 1] - factors[left]) * (place - left)


CURVES = {
    "fade out": ("fade out", None, (0.0, 1.0)),
    "fade in": ("fade in", None, (0.0, 1.0)),
    "middle": ("middle", None, (0.2, 0.9)),
    "own": ("constant", [1.0, -0.5, 0.25, 2.0], (0.1, 0.8)),
    "own instead of schedule": ("fade in", [0.5], (0.0, 1.0)),
}


@pytest.mark.parametrize("way", ["HSpaceApplySteering", "HSpaceSteerConditioning"])
@pytest.mark.parametrize("name", CURVES)
def test_exactly_the_factor_of_a_loop_by_hand(model, name, way):
    schedule, curve, window = CURVES[name]
    factors = SCHEDULES[schedule] if curve is None else (curve if len(curve) > 1 else curve * 2)
    given = {"model": model} if way == "HSpaceApplySteering" else {"conditioning": conditioning(1)}
    widgets = {"strength": STRENGTH, "start_percent": window[0], "end_percent": window[1], "schedule": schedule}
    concept = random_vector(shape=(64, 1, 1), family=find_bottleneck(model).family)
    steered = run_node(way, concept=concept, **given, **widgets, curve=curve)[0]
    recorder, recorded = record_h(steered if way == "HSpaceApplySteering" else model)
    sample(recorder, None if way == "HSpaceApplySteering" else steered, steps=8)
    looping, by_hand = record_h(model)
    sample(by_loop(looping, model, window, factors), steps=8)
    found, wanted = positive_h(recorded), positive_h(by_hand)
    assert len(found) == 8
    for sigma, h in wanted.items():
        torch.testing.assert_close(found[sigma], h, rtol=2e-3, atol=2e-3)


def positive_h(recorded) -> dict[float, torch.Tensor]:
    """h of the positive half by sigma."""
    return {
        call["sigma"]: call["h"].chunk(len(call["cond_or_uncond"]))[call["cond_or_uncond"].index(0)]
        for call in recorded
        if 0 in call["cond_or_uncond"]
    }


def by_loop(recorder, model, window, factors):
    """The same recording model, with a patch before it that adds by the loop's factor."""
    clone = recorder.clone()

    def patch(h, hsp, options):
        if options["block"] == ("output", 0):
            factor = factor_by_hand(model, options["sigmas"][0].item(), window, factors)
            rows = list(h.chunk(len(options["cond_or_uncond"])))
            index = options["cond_or_uncond"].index(0) if 0 in options["cond_or_uncond"] else None
            if index is not None:
                rows[index] = rows[index] + STRENGTH * factor * V.tensor
            h = torch.cat(rows)
        return h, hsp

    patches = clone.model_options["transformer_options"]["patches"]
    patches["output_block_patch"] = [patch, *patches["output_block_patch"]]
    return clone


def test_a_curve_of_ones_is_a_constant_strength():
    model = tiny_model()
    wanted = sample(apply_steering(model, V, STRENGTH, 0.2, 0.7), steps=6)
    assert torch.equal(sample(apply_steering(model, V, STRENGTH, 0.2, 0.7, curve=[1, 1, 1]), steps=6), wanted)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"curve": []}, "curve: the list is empty"),
        ({"curve": [1.0, float("nan")]}, "curve: found nan"),
        ({"curve": ["a"]}, "curve: .* is no list of numbers"),
        ({"schedule": "sometimes"}, "schedule: 'sometimes' is not one of constant, fade out"),
    ],
)
def test_errors_name_the_input(inputs, words):
    with pytest.raises(ValueError, match=words):
        run_node("HSpaceApplySteering", model=tiny_model(), concept=V, **inputs)
