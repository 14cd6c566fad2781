"""Vectors that act on every block of the decoder: the algebra, steering, files, discovery and inspection of sites."""

import copy
import io

import comfy.model_management
import pytest
import torch
from safetensors.torch import save_file

from composition.builders import ARCHITECTURES, build, chunks, sample
from composition.builders import calls as calls_of
from helpers import SMALL_CONSTANTS, Stop, conditioning, run_node, tiny_model
from hspace import DiscoverySettings, PromptPairs, apply_steering, discover, load_concept, save_concept
from hspace.bottleneck import find_bottleneck
from hspace.concepts import Choice, NormalisedSum, Sum, UnfinishedVector, Vector
from hspace.discovery import DISTILLED
from hspace.viewing import inspect_concept, inspection_report

FAST = {**SMALL_CONSTANTS, "steps": 6, "sites": "decoder"}


def decoder_vector(model, seed=0, name="test", scale=1.0, sites=None) -> Vector:
    """A random value a channel at each site of a model, or at some of them."""
    bottleneck, generator = find_bottleneck(model), torch.Generator().manual_seed(seed)
    tensors = {
        site: scale * torch.randn(channels, 1, 1, generator=generator) * (sites is None or site in sites)
        for site, (channels, _) in enumerate(bottleneck.decoder)
    }
    return Vector(tensors.pop(0), name, bottleneck.family, decoder=tensors)


def entrances(model, batch=1, steps=1) -> list[dict[int, torch.Tensor]]:
    """h at the entrance of each decoder block in each call, as the last output-block patch sees it; positive half."""
    recorded: list[dict[int, torch.Tensor]] = []

    def note(h, hsp, transformer_options):
        site, indices = transformer_options["block"][1], transformer_options["cond_or_uncond"]
        if site == 0:
            recorded.append({})
        recorded[-1][site] = dict(zip(indices, h.clone().chunk(len(indices)), strict=True))[0]
        return h, hsp

    clone = model.clone()
    clone.set_model_output_block_patch(note)
    sample(clone, batch=batch, steps=steps)
    return recorded


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_site_of_every_architecture_gets_its_tensor(name):
    """One site at a time, for what is added at one changes h at the next."""
    model = build(name)
    bottleneck = find_bottleneck(model)
    (plain,) = entrances(model)
    assert {site: h.shape[1] for site, h in plain.items()} == dict(
        enumerate(channels for channels, _ in bottleneck.decoder)
    )
    for site, h in plain.items():
        assert tuple(h.shape[2:]) == bottleneck.map_size(16, 16, site)
    for site in (0, 1, len(plain) - 1):
        v = decoder_vector(model, sites={site})
        (steered,) = entrances(apply_steering(model, v, 2.0))
        torch.testing.assert_close(steered[site], plain[site] + 2.0 * v.tensors[site], rtol=1e-4, atol=1e-4)
        for before in range(site):
            assert torch.equal(steered[before], plain[before])


def test_halves_windows_choices_and_sums_are_those_of_the_bottleneck():
    model = build("SD 1.5")
    v, w = decoder_vector(model), decoder_vector(model, seed=1, name="w")
    for concept, factors in ((Sum(((1.0, v), (-0.5, w))), (1.0, -0.5)), (Choice((v, w), (1, 1)), None)):
        plain, steered = (entrances(m, batch=2)[0][0] for m in (model, apply_steering(model, concept, 2.0)))
        rows = concept.coefficients(2)
        expected = torch.einsum("bn,nchw->bchw", rows, torch.stack([v.tensor, w.tensor]))
        torch.testing.assert_close(steered - plain, 2.0 * expected.expand_as(plain), rtol=1e-3, atol=1e-3)
        assert factors is None or rows.tolist() == [list(factors)] * 2
    ended = apply_steering(model, v, 2.0, 0.0, 0.3)
    plain, steered = entrances(model, steps=4), entrances(ended, steps=4)
    assert not torch.equal(plain[0][3], steered[0][3])
    negative = dict(chunks(calls_of(apply_steering(model, v, 2.0, half="negative"), steps=1)[0]))
    unsteered = dict(chunks(calls_of(model, steps=1)[0]))
    assert torch.equal(negative[0], unsteered[0])
    assert not torch.equal(negative[1], unsteered[1])


def test_a_normalised_sum_is_as_long_at_each_site_as_its_longest_term_there():
    """The other sites, where one of the two is alone, leave room that h-space must not take."""
    model = build("SD 1.5")
    v, w = decoder_vector(model, sites={0}), decoder_vector(model, seed=1, name="w")
    both = NormalisedSum(((1.0, v), (1.0, w)))
    (plain,), (steered,) = entrances(model), entrances(apply_steering(model, both, 1.0))
    summed = v.tensor + w.tensor
    longest = max(v.tensor.norm(), w.tensor.norm())
    expected = summed * longest / summed.norm()
    torch.testing.assert_close(steered[0] - plain[0], expected[None].expand_as(plain[0]), rtol=1e-3, atol=1e-3)
    inspected = inspect_concept(both)
    torch.testing.assert_close(inspected.tensor, expected)
    for site, tensor in inspected.decoder.items():
        torch.testing.assert_close(tensor, w.decoder[site])


def test_a_mask_is_resized_to_each_site():
    model = build("SD 1.5")
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    (plain,) = entrances(model)
    for site in (0, 5, 11):
        v = decoder_vector(model, sites={site})
        (steered,) = entrances(apply_steering(model, v, 1.0, mask=mask))
        half = plain[site].shape[-1] // 2
        assert torch.equal(steered[site][..., :half], plain[site][..., :half])
        added = steered[site][..., half:] - plain[site][..., half:]
        torch.testing.assert_close(added, v.tensors[site].expand_as(added[0])[None], rtol=1e-3, atol=1e-3)


def test_a_site_that_the_model_lacks_is_an_error_that_names_it():
    model = tiny_model()
    whole = decoder_vector(model)
    last = max(whole.decoder)
    missing = Vector(whole.tensor, "far", whole.family, decoder={last + 1: torch.zeros(8, 1, 1)})
    wide = Vector(whole.tensor, "wide", whole.family, decoder={last: torch.zeros(7, 1, 1)})
    for vector, words in (
        (missing, rf"'far' acts on decoder block {last + 1}.*has none"),
        (wide, r"'wide'.*7 channels"),
    ):
        with pytest.raises(ValueError, match=rf"concept: .*{words}"):
            apply_steering(model, vector, 1.0)
    with pytest.raises(ValueError, match="different models do not mix"):
        whole + wide
    with pytest.raises(ValueError, match="numbered from 1"):
        Vector(whole.tensor, "zero", whole.family, decoder={0: whole.tensor})


def test_sites_that_only_one_of_two_vectors_has():
    """A sum of a vector of h-space and one of the whole decoder."""
    model = tiny_model()
    whole = decoder_vector(model, scale=0.5)
    narrow = Vector(torch.randn(64, 8, 8, generator=torch.Generator().manual_seed(3)), "narrow", whole.family)
    chained = apply_steering(apply_steering(model, whole, 1.0), narrow, 2.0)
    summed = apply_steering(model, whole + 2.0 * narrow, 1.0)
    together, in_a_row = sample_tiny(summed), sample_tiny(chained)
    largest = in_a_row.abs().max()  # hundreds, of which 1e-4 is the last bit
    torch.testing.assert_close(together / largest, in_a_row / largest, rtol=0, atol=2e-6)


def sample_tiny(model):
    from helpers import sample as sample_of

    return sample_of(model, batch=2)


def test_files_hold_all_sites(tmp_path):
    model = tiny_model()
    vector = decoder_vector(model)
    read = load_concept(save_concept(vector, tmp_path / "v"))
    assert read == vector
    assert read.decoder.keys() == vector.decoder.keys()
    state = {"step": torch.tensor(1.0), "exp_avg.2": torch.ones(3, 1, 1)}
    unfinished = UnfinishedVector(vector.tensor, "v", vector.family, decoder=vector.decoder, state=state)
    again = load_concept(save_concept(unfinished, tmp_path / "u"))
    assert isinstance(again, UnfinishedVector)
    assert torch.equal(again.state["exp_avg.2"], state["exp_avg.2"])
    assert again.decoder.keys() == vector.decoder.keys()


GOOD = {"format": "hspace-concept-vector", "format_version": "2", "name": "v", "base_model": "SD1"}


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(2, 2), "'decoder.1' has shape"),
        (torch.zeros(9000, 1, 1), "'decoder.1' has shape"),
        (torch.zeros(2, 1, 1, dtype=torch.int64), "'decoder.1' is 'I64'"),
        (torch.full((2, 1, 1), float("nan")), "not finite"),
    ],
)
def test_hostile_sites(tmp_path, tensor, words):
    path = tmp_path / "v.safetensors"
    save_file({"direction": torch.zeros(2, 1, 1), "decoder.1": tensor}, path, metadata=GOOD)
    with pytest.raises(ValueError, match=words):
        load_concept(path)


@pytest.mark.parametrize("unfinished", [False, True])
def test_packs_may_copy_and_store_vectors(unfinished):
    vector = decoder_vector(tiny_model())
    if unfinished:
        vector = UnfinishedVector(vector.tensor, "v", vector.family, decoder=vector.decoder, state={"a": torch.ones(1)})
    assert copy.deepcopy(vector) == vector
    buffer = io.BytesIO()
    torch.save(vector, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False) == vector


def find(**changes):
    """A discovery inside inference mode, as a node runs it."""
    extra = {key: changes.pop(key) for key in ("samples", "start_from", "observer", "recipe") if key in changes}
    with torch.inference_mode():
        return discover(
            tiny_model(),
            PromptPairs(conditioning(1), conditioning(2)),
            DiscoverySettings("test", **{**FAST, **changes}),
            **extra,
        )


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_discovery_learns_every_site(method):
    discovery, again = find(method=method), find(method=method)
    bottleneck = find_bottleneck(tiny_model())
    assert {site: tuple(t.shape) for site, t in discovery.vector.tensors.items()} == {
        site: (channels, 1, 1) for site, (channels, _) in enumerate(bottleneck.decoder)
    }
    assert all(tensor.abs().mean() > 0 for tensor in discovery.vector.tensors.values())
    assert discovery.vector == again.vector
    assert discovery.vector.provenance.sites == "decoder"
    assert not find(method=method, sites="bottleneck").vector.decoder


def test_more_sites_explain_more():
    samples = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    options = {"steps": 40, "batch_size": 4, "samples": samples, "learning_rate": 0.02}
    losses = {sites: sum(find(sites=sites, **options).losses[-8:]) for sites in ("bottleneck", "decoder")}
    assert losses["decoder"] < losses["bottleneck"]


def test_gradient_of_every_site_against_finite_differences():
    model = tiny_model(dtype=torch.float64)
    samples = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    start, results = decoder_vector(model, scale=0.3), {}

    def states(run, samples):
        def backward(errors, weights, reach=None, change=None):
            loss, tensors = (errors * weights).sum(), run.optimiser.tensors
            results["loss"] = loss.item()
            results["gradients"] = dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))

        run.optimiser.backward = backward
        run.optimiser.descend = lambda: run.optimiser.losses.append(0.0)
        return DISTILLED.states(run, samples)

    def probe(vector):
        from dataclasses import replace

        settings = DiscoverySettings("test", **{**FAST, "steps": 1})
        with torch.inference_mode():
            pairs = PromptPairs(conditioning(1), conditioning(2))
            discover(model, pairs, settings, samples, vector, recipe=replace(DISTILLED, states=states))
        return results["loss"], results["gradients"]

    _, gradients = probe(start)
    for site, gradient in gradients.items():
        step = 0.02 * gradient.float() / gradient.norm()
        losses = []
        for sign in (1, -1):
            tensors = {**start.tensors, site: start.tensors[site] + sign * step}
            losses.append(probe(Vector(tensors.pop(0), "moved", start.family, decoder=tensors))[0])
        assert (losses[0] - losses[1]) / 0.04 == pytest.approx(gradient.norm().item(), rel=5e-3), site


def test_a_stopped_discovery_goes_on_to_the_same_bits(tmp_path):
    samples, observer = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3)), Stop(3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(samples=samples, observer=observer)
    resumed = find(samples=samples, start_from=load_concept(save_concept(observer.unfinished, tmp_path / "partial")))
    assert resumed.vector == find(samples=samples).vector


def test_range_and_calibration_take_all_sites():
    assert find(measure_range=True, width=64, height=64, batch_size=8).strengths.rows[0].strength == 0
    options = {"steps": 40, "batch_size": 4, "width": 64, "height": 64, "learning_rate": 10.0, "guidance": 100.0}
    raw, calibrated = find(calibrate=False, **options).vector, find(**options).vector
    assert raw.provenance.reach > 0.7  # nothing keeps it from being scaled to 1
    for site, tensor in calibrated.tensors.items():
        torch.testing.assert_close(tensor, raw.tensors[site] / raw.provenance.reach, rtol=1e-3, atol=1e-6)


def test_inspection_tells_the_energy_of_each_site():
    model = tiny_model()
    v, w = decoder_vector(model), decoder_vector(model, seed=1, name="w")
    report = inspection_report(v, w)
    assert "energy by site" in report
    assert "at further sites: 1: " in report
    only_further = decoder_vector(model, sites={2})
    assert "2: 100.0%" in inspection_report(only_further)
    assert "it steers nothing" not in inspection_report(only_further)
    assert "energy by site" in inspection_report(v + 2.0 * w)
    _, picture = run_node("HSpaceInspectConcept", concept=v, compare=w)
    assert picture.shape == (1, 512, 1364, 3)


def test_the_node_offers_them():
    settings = {key: value for key, value in FAST.items() if key != "sites"}
    for sites in ("auto", "bottleneck", "decoder"):
        concept, *_ = run_node(
            "HSpaceDiscoverConcept",
            model=tiny_model(),
            concept=conditioning(1),
            base=conditioning(2),
            sites=sites,
            **settings,
        )
        assert bool(concept.decoder) == (sites != "bottleneck")
    with pytest.raises(ValueError, match="sites: 'skips' is not one of auto, bottleneck, decoder"):
        find(sites="skips")
