"""Apply: what exactly is added to h, to which images, when."""

import pytest
import torch

from helpers import FLUX, conditioning, random_vector, record_h, run_node, sample, tiny_model
from hspace.concepts import NOTHING, Choice, Sweep, Vector
from hspace.steering import apply_steering


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def h_of(model, **options):
    recording, recorded = record_h(model)
    sample(recording, **options)
    return recorded


def halves(record):
    """h by half of CFG: 0 positive, 1 negative."""
    chunks = record["h"].chunk(len(record["cond_or_uncond"]))
    return dict(zip(record["cond_or_uncond"], chunks, strict=True))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(("half", "steered"), [("positive", {0}), ("negative", {1}), ("both", {0, 1})])
def test_exactly_h_plus_strength_times_v(model, batch, half, steered):
    v = random_vector()
    plain = h_of(model, batch=batch, steps=1)[0]
    changed = h_of(apply_steering(model, v, 2.5, half=half), batch=batch, steps=1)[0]
    for index, h in halves(plain).items():
        wanted = h + 2.5 * v.tensor if index in steered else h
        assert torch.equal(halves(changed)[index], wanted)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_expressions_give_each_image_its_own(model, batch):
    a, b = random_vector(name="a"), random_vector(name="b", seed=1)
    expression = Choice((a, b), (2, 1), seed=4) + Sweep(a, -1.0, 1.0)
    coefficients = expression.coefficients(batch)
    plain = h_of(model, batch=batch, steps=1)[0]
    changed = h_of(apply_steering(model, expression, 2.0), batch=batch, steps=1)[0]
    wanted = halves(plain)[0] + 2 * torch.einsum("bn,nchw->bchw", coefficients, torch.stack([a.tensor, b.tensor]))
    torch.testing.assert_close(halves(changed)[0], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(halves(changed)[1], halves(plain)[1])


def test_nothing_is_no_node_bit_for_bit(model):
    assert torch.equal(sample(apply_steering(model, NOTHING, 1.0)), sample(model))


def test_assignment_says_which_image_gets_what(model):
    choice = Choice((random_vector(name="man"), random_vector(name="woman", seed=1)), (1, 1))
    _, assignment = run_node("HSpaceApplySteering", model=model, concept=choice, strength=1.5)
    lines = assignment.splitlines()
    assert len(lines) == 64
    assert {line.split(": ")[1] for line in lines} == {"man x 1.5", "woman x 1.5"}


def test_unbatched_chunks_of_different_lengths(model):
    """Conditionings whose lengths do not fit run in calls of their own; only the positive one is steered."""
    options = {"positive": conditioning(1, tokens=7), "negative": conditioning(2, tokens=40), "steps": 1, "batch": 2}
    plain, changed = h_of(model, **options), h_of(apply_steering(model, random_vector(), 1.0), **options)
    assert len(plain) == 2
    for before, after in zip(plain, changed, strict=True):
        same = torch.equal(before["h"], after["h"])
        assert same == (before["cond_or_uncond"] == [1])


def test_strength_zero_is_no_node_bit_for_bit(model):
    assert torch.equal(sample(apply_steering(model, random_vector(), 0.0)), sample(model))


def test_node_leaves_the_given_model_alone(model):
    before = sample(model)
    steered, assignment = run_node(
        "HSpaceApplySteering", model=model, concept=random_vector(name="woman"), strength=3.0
    )
    assert "woman" in assignment
    assert not torch.equal(sample(steered), before)
    assert torch.equal(sample(model), before)
    assert torch.equal(sample(steered), sample(steered))


def test_one_model_call_is_linear_in_what_is_added():
    """Two nodes in a row equal one with the sum, and strength scales."""
    model = tiny_model(dtype=torch.float64)  # more steps, or float32, would take rounding for a fault
    a, b = random_vector(seed=1, name="a"), random_vector(seed=2, name="b")
    chained = apply_steering(apply_steering(model, a, 1.0), b, -0.5)
    turned = apply_steering(apply_steering(model, b, -0.5), a, 1.0)
    single = apply_steering(model, 2 * a + -1 * b, 0.5)
    reference = sample(single, steps=1)
    assert not torch.allclose(reference, sample(model, steps=1), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(sample(chained, steps=1), reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sample(turned, steps=1), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_window_goes_by_sigma_not_by_calls(model, sampler):
    sampling = model.get_model_object("model_sampling")
    first, last = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.6)
    plain = h_of(model, sampler=sampler, steps=8)
    changed = h_of(apply_steering(model, random_vector(), 1.0, 0.2, 0.6), sampler=sampler, steps=8)
    seen = set()
    for before, after in zip(plain, changed, strict=True):
        inside = last <= after["sigma"] <= first
        seen.add(inside)
        if not inside and after["sigma"] > first:
            assert torch.equal(before["h"], after["h"])
        if inside:
            assert not torch.equal(before["h"], after["h"])
    assert seen == {True, False}


def test_window_follows_a_model_sampling_node_placed_after(model):
    """The sigmas are resolved when sampling starts, so a later ModelSampling node counts."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    steered = apply_steering(model, random_vector(), 1.0, 0.0, 0.5)
    (patched,) = ModelSamplingContinuousEDM().patch(steered, "eps", 50.0, 0.01)
    last = patched.get_model_object("model_sampling").percent_to_sigma(0.5)
    assert last != pytest.approx(model.get_model_object("model_sampling").percent_to_sigma(0.5))
    (run,) = h_of(patched, steps=2)[0]["runs"].values()
    assert run.sigma_end == pytest.approx(last)


def test_mask_restricts_where(model):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    plain = h_of(model, steps=1)[0]
    changed = h_of(apply_steering(model, random_vector(), 1.0, mask=mask), steps=1)[0]
    delta = halves(changed)[0] - halves(plain)[0]
    assert delta[..., :4].abs().max() == 0
    torch.testing.assert_close(delta[0, ..., 4:], random_vector().tensor[..., 4:], rtol=1e-4, atol=1e-5)


def test_one_mask_an_image(model):
    masks = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    plain = h_of(model, steps=1, batch=2)[0]
    changed = h_of(apply_steering(model, random_vector(), 1.0, mask=masks), steps=1, batch=2)[0]
    delta = (halves(changed)[0] - halves(plain)[0]).abs().amax((1, 2, 3))
    assert delta[0] == 0
    assert delta[1] > 0


@pytest.mark.parametrize("size", [8, 24, 33])
def test_other_latent_sizes_resize_the_map(model, size):
    """Bilinear, values kept: a constant map stays that constant, and what is added to h is the resized map."""
    flat = random_vector(shape=(64, 1, 1))
    mapped = Vector(flat.tensor.expand(-1, 8, 8), "flat", "TinyModel")
    plain = h_of(model, steps=1, size=size)[0]
    for v in (mapped, flat):
        changed = h_of(apply_steering(model, v, 1.0), steps=1, size=size)[0]
        delta = halves(changed)[0] - halves(plain)[0]
        assert delta.shape[2:] == (-(-size // 2), -(-size // 2))
        torch.testing.assert_close(delta, flat.tensor.expand_as(delta), rtol=1e-4, atol=1e-5)


def test_freeu_sees_steered_h_in_either_order(model):
    from comfy_extras.nodes_freelunch import FreeU

    def freeu(m):
        return FreeU().patch(m, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    before = sample(apply_steering(freeu(model), random_vector(), 1.0))
    after = sample(freeu(apply_steering(model, random_vector(), 1.0)))
    assert torch.equal(before, after)
    assert not torch.equal(before, sample(apply_steering(model, random_vector(), 1.0)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"concept": random_vector(family="SD1", shape=(1280, 8, 8))}, "concept: .*SD1 with 1280.*TinyModel with 64"),
        ({"concept": random_vector(shape=(32, 8, 8))}, "concept: .*32 channels"),
        ({"concept": random_vector(), "start_percent": 0.5, "end_percent": 0.5}, "start_percent .* end_percent"),
        ({"concept": random_vector(), "apply_to": "left"}, "apply_to"),
    ],
)
def test_errors_name_the_input(model, wrong, words):
    with pytest.raises(ValueError, match=words):
        run_node("HSpaceApplySteering", model=model, **wrong)


def test_models_without_h_space_are_refused():
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Flux(FLUX)
    config.set_inference_dtype(torch.float32, None)
    flux = comfy.model_patcher.ModelPatcher(config.get_model({}), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"model: Flux \(Flux\) has no U-Net bottleneck"):
        run_node("HSpaceApplySteering", model=flux, concept=random_vector())
