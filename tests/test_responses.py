"""Responses: what a vector adds depending on h. Discovery learns them, files hold them, steering adds them."""

import copy
import io
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from safetensors.torch import save_file

from helpers import Notes, Stop, conditioning, random_vector, record_h, responsive_vector, run_node, sample, tiny_model
from hspace import Vector, apply_steering, load_concept, save_concept
from hspace.concepts import Choice, NormalisedSum, Response, Sum, UnfinishedVector
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.steering import probe_concepts
from hspace.viewing import inspection_report

FAST = {
    "steps": 6,
    "batch_size": 2,
    "sample_count": 4,
    "width": 64,
    "height": 64,
    "response_rank": 3,
    "calibrate": False,
}


def by_hand(model, terms, mask=None):
    """A clone whose positive half gets `factor * (constant + up @ down @ h)` of each vector, summed."""

    def add(h, hsp, transformer_options):
        site, indices = transformer_options["block"][1], transformer_options["cond_or_uncond"]
        total = torch.zeros_like(h)
        for factor, vector in terms:
            response = vector.responses[site]
            total += factor * (vector.tensors[site] + torch.einsum("cr,rd,bdhw->bchw", *response, h))
        if mask is not None:
            total *= torch.nn.functional.interpolate(mask[None], size=h.shape[2:], mode="area")
        half = h.shape[0] // len(indices)
        for place, index in enumerate(indices):
            if index != 0:
                total[place * half : (place + 1) * half] = 0
        return h + total, hsp

    clone = model.clone()
    clone.set_model_output_block_patch(add)
    return clone


def distance(images: torch.Tensor, others: torch.Tensor) -> float:
    """Of two batches, as a share of the length of the second."""
    return ((images - others).norm() / others.norm()).item()


def assert_alike(first, second):
    assert distance(*(sample(model, batch=2, steps=1) for model in (first, second))) < 1e-5


def test_steering_adds_what_the_formula_says():
    model = tiny_model()
    v, w = responsive_vector(model), responsive_vector(model, seed=1, name="w", rank=2)
    assert_alike(apply_steering(model, v, 0.5), by_hand(model, [(0.5, v)]))
    assert_alike(apply_steering(model, Sum(((1.0, v), (-0.5, w))), 0.5), by_hand(model, [(0.5, v), (-0.25, w)]))
    constants = Vector(v.tensor, "constants", v.family, decoder=v.decoder)
    assert not torch.equal(sample(apply_steering(model, v, 0.5)), sample(apply_steering(model, constants, 0.5)))


def test_a_mask_covers_it():
    model, mask = tiny_model(), torch.zeros(1, 16, 16)
    mask[:, :, 8:] = 1
    v = responsive_vector(model)
    assert_alike(apply_steering(model, v, 0.5, mask=mask), by_hand(model, [(0.5, v)], mask))


def test_each_image_answers_with_its_own_vectors():
    """Image i of a balanced choice is what it is alone with the vector that it drew."""
    model = tiny_model()
    v, w = responsive_vector(model), responsive_vector(model, seed=1, name="w", rank=2)
    drawn = sample(apply_steering(model, Choice((v, w), (1, 1)), 0.5), batch=2, steps=1)
    rows = Choice((v, w), (1, 1)).coefficients(2)
    for image, row in enumerate(rows.tolist()):
        terms = [(0.5, vector) for on, vector in zip(row, (v, w), strict=True) if on]
        alone = sample(by_hand(model, terms), batch=2, steps=1)
        assert distance(drawn[image], alone[image]) < 1e-5


def test_beside_vectors_without_one():
    model = tiny_model()
    v, plain = responsive_vector(model, sites={1}), random_vector()
    summed, chained = apply_steering(model, v + plain, 0.5), apply_steering(model, v, 0.5)
    with_first = apply_steering(chained, plain, 0.5)  # first in line, so that v answers to a changed h at site 0 only
    assert torch.isfinite(sample(summed)).all()
    assert_alike(summed, with_first)


def test_strength_0_and_a_window_that_is_over_change_nothing():
    model = tiny_model()
    v = responsive_vector(model)
    assert torch.equal(sample(apply_steering(model, v, 0.0)), sample(model))
    h = [record_h(m) for m in (model, apply_steering(model, v, 1.0, 0.0, 0.3))]
    for clone, _ in h:
        sample(clone)
    (_, plain), (_, steered) = h
    assert not torch.equal(plain[0]["h"], steered[0]["h"])


def test_the_algebra_knows_it():
    model = tiny_model()
    v = responsive_vector(model)
    assert_alike(apply_steering(model, v.scaled(0.5), 1.0), apply_steering(model, v, 0.5))
    assert v.scaled(1.0) == v
    other = {**v.responses, 0: Response(v.responses[0].up + 1, v.responses[0].down)}
    assert Vector(v.tensor, v.name, v.family, v.provenance, v.decoder, other) != v
    assert NormalisedSum(((1.0, v), (1.0, responsive_vector(model, seed=1)))).coefficients(1).shape == (1, 2)
    assert "rank 3" in inspection_report(v)
    assert "rank" not in inspection_report(random_vector())


def test_a_probe_looks_for_it():
    model = tiny_model()
    v = responsive_vector(model)
    constants = Vector(v.tensor, v.name, v.family, decoder=v.decoder)
    alone = replace(v.scaled(0.0), responses=v.responses)
    assert alone.steers
    assert not v.scaled(0.0).steers
    contents = [probe_concepts(model, [vector])[1].content for vector in (v, constants, alone)]
    assert len(set(contents)) == 3


@pytest.mark.parametrize("unfinished", [False, True])
def test_files_and_copies_hold_it(tmp_path, unfinished):
    v = responsive_vector(tiny_model())
    if unfinished:
        state = {"exp_avg_up.1": torch.ones(3, 2)}
        v = UnfinishedVector(v.tensor, "v", v.family, v.provenance, v.decoder, v.responses, state)
    read = load_concept(save_concept(v, tmp_path / "v"))
    assert read.responses.keys() == v.responses.keys()
    for site, response in v.responses.items():
        assert all(torch.equal(*pair) for pair in zip(read.responses[site], response, strict=True))
    assert type(read) is type(v)
    assert copy.deepcopy(v) == v
    buffer = io.BytesIO()
    torch.save(v, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False) == v


GOOD = {"format": "hspace-concept-vector", "format_version": "3", "name": "v", "base_model": "SD1"}
UP, DOWN = torch.zeros(2, 1), torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("tensors", "version", "words"),
    [
        ({"response_up": UP, "response_down": DOWN}, "2", "does not know"),
        ({"response_up": UP}, "3", "do not belong together"),
        ({"response_up": UP, "response_down": UP.clone()}, "3", "response at site 0"),
        ({"response_up": torch.zeros(3, 1), "response_down": torch.zeros(1, 3)}, "3", "response at site 0"),
        ({"response_up.1": UP, "response_down.1": DOWN}, "3", "response at site 1"),
        ({"response_up": torch.zeros(2), "response_down": DOWN}, "3", "'response_up' has shape"),
        ({"response_up": torch.zeros(2, 65), "response_down": torch.zeros(65, 2)}, "3", "R at most 64"),
        ({"response_up": UP.long(), "response_down": DOWN}, "3", "'response_up' is 'I64'"),
        ({"response_up": UP, "response_down": DOWN / 0}, "3", "not finite"),
        ({"response_sideways": UP}, "3", "does not know"),
    ],
)
def test_hostile_files(tmp_path, tensors, version, words):
    path = tmp_path / "v.safetensors"
    save_file({"direction": torch.zeros(2, 1, 1), **tensors}, path, metadata={**GOOD, "format_version": version})
    with pytest.raises(ValueError, match=words):
        load_concept(path)


def find(**changes):
    """A discovery inside inference mode, as a node runs it."""
    extra = {key: changes.pop(key) for key in ("samples", "start_from", "observer") if key in changes}
    pairs = PromptPairs(conditioning(1), conditioning(2))
    with torch.inference_mode():
        return discover(tiny_model(), pairs, DiscoverySettings("test", **{**FAST, **changes}), **extra)


@pytest.mark.parametrize("sites", ["bottleneck", "decoder"])
def test_discovery_learns_it(sites):
    vector = find(sites=sites).vector
    assert vector.responses.keys() == vector.tensors.keys()
    for site, response in vector.responses.items():
        assert response.rank == 3
        assert response.up.abs().max() > 0, site
    assert find(sites=sites, response_rank=0).vector.responses == {}


def test_it_explains_more():
    options = {"steps": 60, "batch_size": 4, "sample_count": 30}
    with_it, without = (find(response_rank=rank, **options).losses for rank in (4, 0))
    assert sum(with_it[-10:]) < sum(without[-10:])


def test_a_stopped_discovery_goes_on_to_the_same_bits(tmp_path):
    observer = Stop(3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(observer=observer)
    partial = load_concept(save_concept(observer.unfinished, tmp_path / "partial"))
    notes = Notes()
    assert find(start_from=partial, response_rank=0, observer=notes).vector == find().vector  # it goes on as it began
    assert any("response_rank: start_from goes on with the rank that it has, 3" in text for text in notes.texts)
    damaged = {key: tensor for key, tensor in partial.state.items() if key != "exp_avg_up.1"}
    broken = UnfinishedVector(
        partial.tensor, "v", partial.family, partial.provenance, partial.decoder, partial.responses, damaged
    )
    with pytest.raises(ValueError, match="start_from: the saved optimiser state does not fit"):
        find(start_from=broken)


def test_a_finished_vector_without_one_gets_one():
    plain = find(response_rank=0).vector
    assert find(start_from=plain).vector.responses.keys() == plain.tensors.keys()


def test_calibration_scales_it():
    options = {"steps": 40, "batch_size": 4, "learning_rate": 10.0, "guidance": 100.0}
    raw, calibrated = (find(calibrate=calibrate, **options).vector for calibrate in (False, True))
    scale = calibrated.provenance.scale
    assert scale != 1
    for site, response in calibrated.responses.items():
        torch.testing.assert_close(response.up, scale * raw.responses[site].up, rtol=1e-4, atol=1e-6)
        assert torch.equal(response.down, raw.responses[site].down)


def test_the_published_method_has_none():
    paper = {"method": "paper", "sites": "auto"}
    assert find(**paper).vector.responses == {}
    with pytest.raises(ValueError, match=r"start_from: .*depends on the image"):
        find(start_from=find().vector, **paper)
    with pytest.raises(ValueError, match="response_rank: 65 is not from 0 to 64"):
        find(response_rank=65)


def test_the_node_offers_it():
    settings = {**FAST, "response_rank": 2}
    concept, *_ = run_node(
        "HSpaceDiscoverConcept", model=tiny_model(), concept=conditioning(1), base=conditioning(2), **settings
    )
    assert {response.rank for response in concept.responses.values()} == {2}
