"""Many Apply nodes in one graph: they add up in any order, and leave alone what they are not in the path of."""

from functools import reduce
from itertools import permutations

import pytest
import torch

from composition.builders import build, calls, chunks, sample, vector_for
from hspace.concepts import Sum, Sweep
from hspace.steering import apply_steering
from hspace.steering.patch import CALLS_KEY, RUNS_KEY


@pytest.fixture(scope="module")
def model():
    return build("small")


def chain(model, nodes):
    return reduce(lambda patched, node: apply_steering(patched, **node), nodes, model)


def vectors(model, count):
    return [vector_for(model, seed, name=f"v{seed}") for seed in range(count)]


@pytest.mark.parametrize("count", [2, 3, 12])
def test_chain_is_the_sum(model, count):
    strengths = [1.5 - 0.5 * i for i in range(count)]
    nodes = [{"concept": v, "strength": s} for v, s in zip(vectors(model, count), strengths, strict=True)]
    total = Sum(tuple((node["strength"], node["concept"]) for node in nodes))
    wanted = sample(apply_steering(model, total, 1.0), batch=2)
    for ordered in list(permutations(nodes))[:6] if count < 5 else (nodes, nodes[::-1]):
        torch.testing.assert_close(sample(chain(model, ordered), batch=2), wanted, rtol=1e-3, atol=1e-3)


def test_order_of_unlike_nodes(model):
    """Windows, halves of CFG, masks and per-image shares of their own: what h gets is the sum, whatever the order."""
    a, b, c, d = vectors(model, 4)
    mask = torch.zeros(1, 64, 64)
    mask[:, 32:] = 1
    nodes = [
        {"concept": a, "strength": 2.0, "end_percent": 0.5},
        {"concept": b, "strength": -1.0, "half": "negative"},
        {"concept": c, "strength": 1.0, "half": "both", "mask": mask},
        {"concept": Sweep(d, 0.0, 1.0), "strength": 3.0, "start_percent": 0.2},
    ]
    plain = calls(model, batch=2, steps=1)[0]
    single = [calls(apply_steering(model, **node), batch=2, steps=1)[0]["h"] - plain["h"] for node in nodes]
    runs = []
    for ordered in list(permutations(nodes))[::5]:
        patched = chain(model, ordered)
        torch.testing.assert_close(
            calls(patched, batch=2, steps=1)[0]["h"], plain["h"] + sum(single), rtol=1e-4, atol=1e-4
        )
        runs.append(sample(patched, batch=2, steps=4))
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-3, atol=1e-3)


def test_branches_of_a_graph_are_apart(model):
    """The model, and clones steered in other ways, give what they gave whatever runs between."""
    a, b, _ = vectors(model, 3)
    models = {
        "plain": model,
        "a": apply_steering(model, a, 2.0),
        "b": apply_steering(model, b, 2.0),
        "a and b": apply_steering(apply_steering(model, a, 2.0), b, 2.0),
        "clone": apply_steering(model, a, 2.0).clone(),
    }
    first = {name: sample(steered) for name, steered in models.items()}
    for name in ["a and b", "plain", "b", "clone", "a", "plain"]:
        assert torch.equal(sample(models[name]), first[name])
    assert torch.equal(first["clone"], first["a"])
    assert len({tuple(image.flatten().tolist()) for image in first.values()}) == 4


def test_nothing_of_a_run_remains(model):
    steered = apply_steering(model, vector_for(model), 2.0, 0.1, 0.9, mask=torch.ones(1, 8, 8))
    options = str(sorted(steered.model_options["transformer_options"]))
    for size in ((16, 16), (24, 8)):
        sample(steered, batch=2, size=size)
    assert str(sorted(steered.model_options["transformer_options"])) == options
    for key in (RUNS_KEY, CALLS_KEY):
        assert key not in steered.model_options["transformer_options"]
    assert "output_block_patch" not in model.model_options["transformer_options"].get("patches", {})
    assert not model.wrappers


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_sde"])
def test_the_same_graph_twice_gives_the_same_bits(model, sampler):
    options = {"sampler": sampler, "batch": 2, "steps": 3}
    make = lambda: sample(apply_steering(model, vector_for(model), 2.0, 0.1, 0.9), **options)  # noqa: E731
    first = make()
    assert torch.equal(make(), first)
    sample(model, batch=3)
    assert torch.equal(make(), first)


def test_strength_scales_exactly(model):
    v = vector_for(model)
    plain = dict(chunks(calls(model, steps=1)[0]))[0]
    for strength in (-4.0, 0.5, 1.0, 3.0):
        steered = dict(chunks(calls(apply_steering(model, v, strength), steps=1)[0]))[0]
        assert torch.equal(steered, plain + strength * v.tensor)


def test_outside_of_sampling_it_says_so(model):
    """A node that runs the model by itself, without a guider."""
    steered = apply_steering(model, vector_for(model), 1.0)
    options = {**steered.model_options["transformer_options"], "cond_or_uncond": [0], "sigmas": torch.ones(1)}
    inputs = {"c_crossattn": torch.zeros(1, 7, 768), "transformer_options": options}
    with torch.inference_mode(), pytest.raises(ValueError, match=r"model: Apply H-Space Steering .* outside of it"):
        steered.model.apply_model(torch.zeros(1, 4, 16, 16), torch.ones(1), **inputs)
