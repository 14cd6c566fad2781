"""Probe Concepts: the same images bit for bit, figures of the run that made the latents, and what the figures mean."""

import copy

import comfy.sample
import comfy.samplers
import pytest
import torch

import nodes
from helpers import ROOT, conditioning, random_vector, run_node, run_stock_node, sample, tiny_model
from hspace.concepts import NOTHING, Choice, Sum, Sweep
from hspace.steering import apply_steering, find_reading, probe_concepts, steer_conditioning

V, W = random_vector(name="v"), random_vector(name="w", seed=1)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def found(model, concepts=(V,), window=(0.0, 1.0), **options):
    """Latents of a probed run, and its reading."""
    probed, probe = probe_concepts(model, concepts, *window)
    latents = sample(probed, **options)
    return latents, find_reading(probe.content, latents)


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 3}, {"cfg": 1.0}, {"sampler": "heun"}, {"sampler": "dpmpp_2m"}, {"size": 24}],
    ids=["one", "batch", "cfg 1", "heun", "dpmpp_2m", "size"],
)
def test_not_a_bit_changes(model, options):
    latents, reading = found(model, (V, W), **options)
    assert torch.equal(latents, sample(model, **options))
    assert reading.names == ("v", "w")
    assert reading.scores.shape == (options.get("batch", 1), 2)
    assert reading.steps.shape == (len(reading.sigmas), *reading.scores.shape)
    assert reading.scores.isfinite().all()
    assert reading.steps.isfinite().all()
    assert len(reading.sigmas) == {"heun": 7}.get(options.get("sampler"), 4)


def test_figures_are_those_of_the_definition(model):
    """Against predictions by a plain guider, at the states of the run."""
    concept, states = Sum(((2.0, V), (-0.5, W))), []

    def note(args):
        states.append((args["input"].clone(), args["sigma"].clone(), args["cond_denoised"]))
        return args["denoised"]

    noting = model.clone()
    noting.set_model_sampler_post_cfg_function(note)
    latents, reading = found(noting, (concept,), batch=2)
    plus, minus = (apply_steering(model, concept, strength, half="both") for strength in (1.0, -1.0))
    places = []
    for step, (x, sigma, own) in enumerate(states):
        ends = [predicted(end, x, sigma).flatten(1) for end in (plus, minus)]
        middle, effect = (ends[0] + ends[1]) / 2, (ends[0] - ends[1]) / 2
        expected = ((own.flatten(1) - middle) * effect).sum(1) / effect.square().sum(1)
        torch.testing.assert_close(reading.steps[step, :, 0], expected, rtol=1e-3, atol=1e-4)
        image = model.model.process_latent_in(latents).flatten(1)
        places.append(((image - middle) * effect).sum(1) / effect.square().sum(1))
    torch.testing.assert_close(reading.scores[:, 0], torch.stack(places).quantile(0.5, 0), rtol=1e-3, atol=1e-4)


def predicted(model, x, sigma):
    """x0 under the positive prompt of `helpers.sample`."""
    seen = []

    def sampler(guided, start, sigmas, extra_args=None, **_):
        seen.append(guided(x, sigma, **extra_args))
        return start

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(1.0)
    with torch.inference_mode():
        guider.sample(
            torch.zeros_like(x),
            torch.zeros_like(x),
            comfy.samplers.KSAMPLER(lambda m, n, s, **kwargs: sampler(m, n, s, kwargs.get("extra_args"))),
            torch.tensor([sigma[0].item(), 0.0]),
            disable_pbar=True,
        )
    return seen[0]


def test_steering_is_read_in_its_own_units(model):
    """A model steered by three times the vector predicts what lies at 3, in either order of the nodes."""
    weak = V.scaled(0.01)  # so weak that its effect is linear
    _, plain = found(model, (weak,), steps=1)
    torch.testing.assert_close(plain.steps, torch.zeros(1, 1, 1), rtol=0, atol=0.05)
    for first in (True, False):
        probed, probe = probe_concepts(apply_steering(model, weak, 3.0) if first else model, [weak])
        latents = sample(probed if first else apply_steering(probed, weak, 3.0), steps=1)
        torch.testing.assert_close(
            find_reading(probe.content, latents).steps, torch.full((1, 1, 1), 3.0), rtol=0.05, atol=0.05
        )


def ksampler(model, seed=5, batch=2, **changes):
    inputs = {"steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, **changes}
    latent = {"samples": torch.zeros(batch, 4, 16, 16)}
    with torch.inference_mode():
        given = {"positive": conditioning(1), "negative": conditioning(2), "latent_image": latent, **inputs}
        return nodes.KSampler().sample(model=model, seed=seed, **given)[0]


def test_nodes_find_the_run_that_made_the_latents(model):
    """ComfyUI runs Probe Concepts once for many runs of samplers, and again where it forgot it."""
    probed, probe = run_node("HSpaceProbe", model=model, concept_1=V, concept_3=W)
    first, second, few = ksampler(probed), ksampler(probed, seed=6), ksampler(probed, batch=1)
    again = run_node("HSpaceProbe", model=model, concept_1=V, concept_3=W)[1]
    for latent in (first, second, few, {"samples": first["samples"].half()}):
        chart, table, scores = run_node("HSpaceProbeReport", probe=probe, latent=latent)
        assert run_node("HSpaceProbeReport", probe=copy.deepcopy(again), latent=latent)[1] == table
        assert len(scores) == len(latent["samples"])
        assert chart.shape == (1, 512, 768, 3)
        assert table.splitlines()[0] == "image\tv\tw"
        assert [line.split("\t")[1] for line in table.splitlines()[3:]] == [f"{score:+.2f}" for score in scores]
    tables = {run_node("HSpaceProbeReport", probe=probe, latent=latent)[1] for latent in (first, second, few)}
    assert len(tables) == 3
    assert run_node("HSpaceProbeReport", probe=probe, latent=first, scores_of=2)[2] != scores


def test_latents_of_no_probed_run_are_refused(model):
    probed, probe = run_node("HSpaceProbe", model=model, concept_1=V)
    other = run_node("HSpaceProbe", model=model, concept_1=W)[1]
    latent = ksampler(probed)
    for who, what in ((probe, ksampler(model, seed=9)), (other, latent), (probe, {"samples": latent["samples"][:1]})):
        with pytest.raises(ValueError, match=r"^latent: no probed run made these"):
            run_node("HSpaceProbeReport", probe=who, latent=what)
    with pytest.raises(ValueError, match=r"^scores_of: there is no concept 2; 1 are probed"):
        run_node("HSpaceProbeReport", probe=probe, latent=latent, scores_of=2)
    probed, probe = run_node("HSpaceProbe", model=model, concept_1=V, start_percent=0.4, end_percent=0.6)
    with pytest.raises(ValueError, match=r"^probe: nothing was measured"):
        run_node("HSpaceProbeReport", probe=probe, latent=ksampler(probed))


def test_a_cancelled_run_leaves_nothing(model):
    probed, probe = probe_concepts(model, [V])

    def cancel(args):
        raise InterruptedError

    probed.set_model_sampler_post_cfg_function(cancel)
    with pytest.raises(InterruptedError):
        sample(probed)
    with pytest.raises(ValueError, match="no probed run"):
        find_reading(probe.content, sample(model))


@pytest.mark.parametrize(
    ("concept", "words"),
    [
        (NOTHING, "concept_2: 'nothing' steers nothing"),
        (Sum(((0.0, V),)), "concept_2: '0 x v' steers nothing"),
        (V.scaled(0.0), "concept_2: 'v' steers nothing"),
        (Choice((V, W), (1, 1)), "concept_2: .* differs between the images"),
        (Sweep(V, 0.0, 1.0), "concept_2: .* differs between the images"),
        (random_vector((32, 8, 8)), "concept: 'test' was found on"),
    ],
)
def test_what_is_no_one_direction_is_refused(model, concept, words):
    with pytest.raises(ValueError, match=words):
        run_node("HSpaceProbe", model=model, concept_1=V, concept_2=concept)


def test_window(model):
    _, whole = found(model, steps=8)
    _, reading = found(model, window=(0.0, 0.5), steps=8)
    assert 0 < len(reading.sigmas) < 8
    assert torch.equal(reading.steps, whole.steps[: len(reading.sigmas)])


@pytest.mark.parametrize("name", ["positive", "other"])
def test_guiders_without_a_negative_prompt(model, name):
    """BasicGuider has only a positive one; a guider without that is refused."""
    probed, probe = probe_concepts(model, [V])
    guider = comfy.samplers.CFGGuider(probed)
    guider.inner_set_conds({name: conditioning(1)})
    guider.set_cfg(1.0)
    noise = torch.randn(1, 4, 16, 16)
    with torch.inference_mode():
        sigmas = comfy.samplers.calculate_sigmas(probed.get_model_object("model_sampling"), "normal", 2)
        latents = guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True
        )
    if name == "positive":
        assert find_reading(probe.content, latents).scores.isfinite().all()
    else:
        with pytest.raises(ValueError, match="probe: the sampler's guider has no positive prompt"):
            find_reading(probe.content, latents)


def beside(model, name):
    """The model with something else that changes how it is called, and its positive prompt."""
    prompt = conditioning(1)
    if name == "hook":
        return model, steer_conditioning(prompt, W, 1.0)
    if name == "area":
        return model, [[prompt[0][0], {**prompt[0][1], "area": (8, 16, 4, 0)}], *conditioning(3)]
    if name == "context windows":
        from comfy_extras.nodes_context_windows import ContextWindowsManualNode

        windows = {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "dim": 0}
        return run_stock_node(ContextWindowsManualNode, model=model, fuse_method="flat", **windows)[0], prompt
    if name == "pag":
        from comfy_extras.nodes_pag import PerturbedAttentionGuidance

        return PerturbedAttentionGuidance.execute(model, 3.0)[0], prompt
    if name == "easy cache":
        from comfy_extras.nodes_easycache import EasyCacheNode

        return EasyCacheNode.execute(model, 0.5, 0.15, 0.95, False)[0], prompt
    return apply_steering(model, W, 1.0), prompt


@pytest.mark.parametrize("name", ["apply", "hook", "area", "context windows", "pag", "easy cache"])
def test_beside_others_in_either_order(model, name):
    """Not a bit changes, and what is measured is what the model predicts, whoever comes first."""
    changed, prompt = beside(model, name)
    options = {"batch": 3, "steps": 6 if name == "easy cache" else 2}
    wanted = sample(changed, prompt, **options)
    probed, probe = probe_concepts(model, [V], 0.0, 1.0)
    latents, after = found(changed, positive=prompt, **options)
    before = sample(beside(probed, name)[0], prompt, **options)
    assert torch.equal(latents, wanted)
    assert torch.equal(before, wanted)
    if name != "context windows":  # each image by itself, whichever window it is in
        assert not torch.equal(wanted, sample(model, **options))
    torch.testing.assert_close(find_reading(probe.content, before).scores, after.scores, rtol=1e-3, atol=1e-3)
    if name == "pag":
        _, alone = found(model, **options)
        torch.testing.assert_close(after.steps[0], alone.steps[0], rtol=1e-3, atol=1e-3)


def test_in_a_server_each_report_is_of_its_own_run(server):
    """The shipped workflow: two samplers, a changed seed, and kept latents whose report is made anew."""
    prompt = server.convert(ROOT / "workflows" / "probe_concepts.json")
    kinds = {kind: [key for key in prompt if prompt[key]["class_type"] == kind] for kind in ("KSampler", "PreviewAny")}
    for key in kinds["KSampler"]:
        prompt[key]["inputs"]["steps"] = 5
    for node in prompt.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = 2

    def tables():
        outputs = server.run(prompt)
        return [outputs[key]["text"][0] for key in kinds["PreviewAny"]]

    first = tables()
    assert first[0] != first[1]
    assert all(len(table.splitlines()) == 5 for table in first)
    prompt[kinds["KSampler"][0]]["inputs"]["seed"] += 1
    second = tables()
    assert sorted(table == before for table, before in zip(second, first, strict=True)) == [False, True]
    for node in prompt.values():
        if node["class_type"] == "HSpaceProbe":  # ComfyUI forgets the latents, and samples again
            node["inputs"]["end_percent"] = 0.3
    assert tables()[1] != second[1]
    for node in prompt.values():
        if node["class_type"] == "HSpaceProbe":
            node["inputs"]["end_percent"] = 0.6
    assert tables() == second
