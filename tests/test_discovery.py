"""Discovery on tiny real U-Nets: the optimiser's gradient, frozen weights, reproducibility, resume and cancel."""

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import pytest
import torch
from hspace_steering.nodes.editor import NodeObserver

from helpers import (
    SMALL_CONSTANTS,
    Notes,
    Stop,
    TinyVPrediction,
    conditioning,
    node_classes,
    random_vector,
    run_node,
    sample,
    tiny_model,
    weights_hash,
)
from hspace.concepts import Response, UnfinishedVector
from hspace.discovery import DISTILLED, PAPER, DiscoverySettings, Observer, PromptPairs, discover, distilled
from hspace.discovery.objective import (
    GRADIENT_SCALE,
    Reach,
    alike,
    by_requested_change,
    named_concept,
    relative_error,
    relative_reach,
    squared_error,
    teacher_target,
)
from hspace.discovery.optimiser import VectorOptimiser
from hspace.files import autosave, load_concept

FAST = {**SMALL_CONSTANTS, "steps": 6, "sites": "bottleneck"}


def settings(**changes):
    return DiscoverySettings("test", **{**FAST, **changes})


RECIPES = {"distilled": DISTILLED, "paper": PAPER}


class Watch(Observer):
    """Calls `after_step` with each progress, and keeps the vectors that it is told of at the end."""

    def __init__(self, after_step=None, preview_every=0):
        self.after_step, self.preview_every = after_step, preview_every
        self.unfinished, self.results = [], []

    def step(self, progress):
        if self.after_step:
            self.after_step(progress)

    def stopped(self, vector):
        self.unfinished.append(vector)

    def finished(self, vector):
        self.results.append(vector)


def find(model=None, concept=None, base=None, observer=None, **changes):
    """A discovery inside inference mode, as a node runs it."""
    extra = {key: changes.pop(key) for key in ("samples", "start_from", "recipe") if key in changes}
    pairs = PromptPairs(concept or conditioning(1), base or conditioning(2), changes.pop("avoid", None))
    with torch.inference_mode():
        return discover(model or tiny_model(), pairs, settings(**changes), observer=observer, **extra)


@pytest.mark.parametrize("method", ["distilled", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finds_a_vector_and_leaves_the_model_as_it_was(method, dtype):
    model = tiny_model(dtype=dtype)
    before, drawn = weights_hash(model), sample(model)
    parameters = {name: id(p) for name, p in model.model.named_parameters()}
    found = find(model, method=method)
    assert found.vector.tensor.shape == (64, 8, 8)
    assert found.vector.tensor.abs().mean() > 0
    assert len(found.losses) == 6
    assert weights_hash(model) == before
    assert {name: id(p) for name, p in model.model.named_parameters()} == parameters
    assert not any(p.requires_grad and p.grad is not None for p in model.model.parameters())
    assert torch.equal(sample(model), drawn)


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_same_seed_same_bits(method):
    a, b, other = find(method=method), find(method=method), find(method=method, seed=1)
    assert torch.equal(a.vector.tensor, b.vector.tensor)
    assert a.losses == b.losses
    assert not torch.equal(a.vector.tensor, other.vector.tensor)


def test_distilled_learns_what_the_prompt_left_out():
    """The loss is the unexplained share of the teacher's difference: 1 with no vector, less with one."""
    samples = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    found = find(steps=40, batch_size=4, samples=samples, learning_rate=0.02)
    assert found.losses[0] == pytest.approx(1, abs=1e-3)
    assert sum(found.losses[-8:]) / 8 < 0.97


@pytest.mark.parametrize("config", [None, TinyVPrediction])
@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_gradient_against_finite_differences_in_float64(method, config):
    model = tiny_model(dtype=torch.float64, **({"config_class": config} if config else {}))
    samples = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    family = config.__name__ if config else "TinyModel"
    start = random_vector(seed=5, family=family)

    class Probe(VectorOptimiser):
        def backward(self, errors, weights=None, reach=None, change=None):
            loss = (errors if weights is None else errors * weights).sum()
            self.loss = loss.item()
            (self.gradient,) = torch.autograd.grad(loss, self.tensors[0])

        def descend(self):
            self.losses.append(0.0)

    def probe(vector):
        probes = []

        def states(run, samples):
            probes.append(Probe(run.optimiser.tensors, run.recipe, run.settings))
            run.optimiser = probes[0]
            return RECIPES[method].states(run, samples)

        recipe = replace(RECIPES[method], states=states)
        find(model, method=method, steps=1, samples=samples, start_from=vector, recipe=recipe)
        return probes[0].loss, probes[0].gradient

    _, gradient = probe(start)
    along = gradient / gradient.norm()
    step = 0.05
    moved = [probe(type(start)(start.tensor + sign * step * along.float(), "moved", family))[0] for sign in (1, -1)]
    measured = (moved[0] - moved[1]) / (2 * step)
    assert measured == pytest.approx(gradient.norm().item(), rel=1e-3)


def test_several_pairs_and_different_lengths():
    found = find(concept=conditioning(1, entries=3), base=conditioning(2, entries=2) + conditioning(4, tokens=14))
    assert found.vector.provenance.pairs == 3


def test_pairs_of_a_batch_are_what_they_are_alone():
    """Image i of a mixed batch sees exactly its own prompt."""
    from hspace.comfy_compat import merge_conds

    model = tiny_model()
    prompts = conditioning(1, entries=2) + conditioning(3, tokens=14)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"base": prompts})
    outputs = {}

    class Look(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
            conds, options, inner = model_wrap.conds["base"], extra_args["model_options"], model_wrap.inner_model
            x, sigma = noise * sigmas[0], sigmas[:1].expand(3)
            outputs["mixed"] = comfy.samplers.calc_cond_batch(
                inner, [merge_conds([conds[i] for i in (2, 0, 1)])], x, sigma, options
            )[0]
            for image, pair in enumerate((2, 0, 1)):
                alone = comfy.samplers.calc_cond_batch(
                    inner, [[conds[pair]]], x[image : image + 1], sigma[:1], options
                )[0]
                outputs[image] = alone[0]
            return noise

    with torch.inference_mode():
        guider.sample(torch.randn(3, 4, 16, 16), torch.zeros(3, 4, 16, 16), Look(), torch.tensor([5.0, 0.0]))
    for image in range(3):
        torch.testing.assert_close(outputs["mixed"][image], outputs[image], rtol=1e-4, atol=1e-4)


def test_a_steered_model_is_steered_under_every_prompt():
    """Discovery on top of steering: the given model's own vector acts on teacher and student alike."""
    from helpers import record_h
    from hspace.steering import apply_steering

    seen = []
    for strength in (0.0, 1.0):
        recording, recorded = record_h(apply_steering(tiny_model(), random_vector(), strength))
        find(recording, steps=1, samples=torch.zeros(2, 4, 16, 16))
        seen.append(recorded[0])
    assert len(seen[0]["cond_or_uncond"]) == 2
    added = seen[1]["h"] - seen[0]["h"]
    torch.testing.assert_close(added, random_vector().tensor.expand(4, -1, -1, -1), rtol=1e-3, atol=1e-3)


def test_avoid_changes_what_is_found():
    same = conditioning(2)
    found = find(concept=same, base=same, avoid=conditioning(9))
    assert found.vector.tensor.abs().mean() > 0
    assert found.losses[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concept": conditioning(1, entries=2)}, "concept holds 2 prompts and base 1"),
        ({"avoid": conditioning(1, entries=3)}, "avoid holds 3"),
        ({"concept": []}, "concept"),
        ({"concept": conditioning(2)}, "concept: says the same as base"),  # from a node of its own
        ({"concept": [[torch.full((1, 7, 16), torch.nan), {}]]}, "concept: prompt 1 holds values that are not numbers"),
        ({"concept": [[torch.ones(1, 7, 24), {}]]}, "concept: .* 24 wide, .* 16. Connect the CLIP of"),
        ({"empty": conditioning(1, entries=2)}, "empty holds 2"),
        ({"samples": torch.zeros(1, 16, 8, 8)}, "samples: .*4 latent channels"),
        ({"samples": torch.tensor([0.0, torch.nan]).view(2, 1, 1, 1).expand(2, 4, 16, 16)}, "samples: image 2 holds"),
        ({"width": 100}, "width: 100"),
        ({"name": " "}, "name"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"start_from": random_vector(family="SD1", shape=(1280, 8, 8))}, "SD1"),
        ({"base": [[torch.zeros(1, 7, 16), {"mask": torch.ones(1, 8, 8)}]]}, "base: .*mask"),
    ],
)
def test_errors_name_the_input(changes, words):
    prompts = {"concept": conditioning(1), "base": conditioning(2), "avoid": None, "empty": None}
    prompts = {key: changes.pop(key, default) for key, default in prompts.items()}
    name = changes.pop("name", "test")
    extra = {key: changes.pop(key) for key in ("samples", "start_from") if key in changes}
    with pytest.raises(ValueError, match=words), torch.inference_mode():
        discover(tiny_model(), PromptPairs(**prompts), DiscoverySettings(name, **{**FAST, **changes}), **extra)


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_cancel_within_a_step_keeps_what_was_found_and_resumes(method, vector_folder):
    model, observer = tiny_model(), Stop(3)
    before = weights_hash(model)
    samples = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(model, method=method, samples=samples, observer=observer)
    assert weights_hash(model) == before
    partial = observer.unfinished
    assert partial.provenance.steps in (3, 4)
    NodeObserver(model, 6, "test", 0, None).stopped(partial)
    (path,) = vector_folder.glob("partial/*.safetensors")
    (loaded,) = run_node("HSpaceLoadConcept", concept_name=f"partial/{path.name}")  # inside inference mode
    resumed = find(model, method=method, samples=samples, start_from=loaded)
    whole = find(model, method=method, samples=samples)
    assert resumed.losses == whole.losses
    spent = resumed.vector.provenance.evaluations - whole.vector.provenance.evaluations
    assert 0 <= spent <= 8  # of the step that the cancel broke off
    assert replace(resumed.vector.provenance, evaluations=0) == replace(whole.vector.provenance, evaluations=0)
    assert torch.equal(resumed.vector.tensor, whole.vector.tensor)
    assert not isinstance(whole.vector, UnfinishedVector)


@pytest.mark.parametrize("stop", [2, 5])
def test_spatial_mean_is_one_value_a_channel_and_resumes_from_its_map(stop):
    """Stopped while the map is learnt or, in the last quarter, its mean."""
    samples, observer = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3)), Stop(stop)
    whole = find(samples=samples, spatial_mean=True).vector
    assert whole.tensor.shape == (64, 1, 1)
    assert whole.provenance.to_strings()["spatial_mean"] == "true"
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(samples=samples, spatial_mean=True, observer=observer)
    partial = observer.unfinished
    assert partial.tensor.shape == (64, 8, 8)
    assert "spatial_mean" not in partial.provenance.to_strings()
    resumed = find(samples=samples, spatial_mean=True, start_from=partial).vector
    assert torch.equal(resumed.tensor, whole.tensor)


def fail_at(step):
    """An observer that raises after that step."""

    def fail(progress):
        if progress.step == step:
            raise OSError("disk full")

    return Watch(fail)


def test_the_last_steps_learn_with_the_mean():
    """The mean has the same gradient everywhere."""
    samples, moments = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3)), {}
    for steps in (5, 6, 7):
        observer = fail_at(steps)
        with pytest.raises(OSError, match="disk full"):
            find(samples=samples, spatial_mean=True, steps=8, observer=observer)
        moments[steps] = observer.unfinished[0].state["exp_avg"]
    of_map, of_mean = (moments[step] - 0.9 * moments[step - 1] for step in (6, 7))
    assert of_map.std((1, 2)).min() > 1e-3 * of_map.abs().max()
    assert of_mean.std((1, 2)).max() < 1e-5 * of_map.abs().max()


def test_failure_keeps_what_was_found():
    observer = fail_at(2)
    with pytest.raises(OSError, match="disk full"):
        find(observer=observer)
    assert observer.unfinished[0].provenance.steps == 2
    assert not observer.results


def test_masked_samples_are_refused():
    samples = {"samples": torch.zeros(1, 4, 16, 16), "noise_mask": torch.ones(1, 1, 128, 128)}
    with pytest.raises(ValueError, match=r"samples: .*noise mask"):
        run_node(
            "HSpaceDiscoverConcept", model=tiny_model(), concept=conditioning(1), base=conditioning(2), samples=samples
        )


def test_one_prompt_on_both_sides_teaches_nothing():
    same = conditioning(2)
    with pytest.raises(ValueError, match="concept: says the same as base"):
        find(concept=same, base=same)


def test_node_outputs(vector_folder):
    concept, plot, samples, preview = run_node(
        "HSpaceDiscoverConcept", model=tiny_model(), concept=conditioning(1), base=conditioning(2), **FAST
    )
    assert plot.shape == (1, 512, 768, 3)
    assert preview.shape == (1, 256, 256, 3)
    assert [batch["samples"].shape[1:] for batch in samples] == [(4, 16, 16)]
    assert {"base_model", "prediction_type", "final_loss", "seed", "method"} <= set(concept.provenance.to_strings())
    (path,) = run_node("HSpaceSaveConcept", concept=concept, filename_prefix="mine/test")
    assert path == str(vector_folder / "mine" / "test.safetensors")
    (loaded,) = run_node("HSpaceLoadConcept", concept_name="mine/test.safetensors")
    assert torch.equal(loaded.tensor, concept.tensor)


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_comparison_shows_plain_above_steered_and_changes_no_bit(method):
    previews = []
    compared = find(method=method, observer=Watch(lambda progress: previews.append(progress.preview), preview_every=2))
    alone = find(method=method)
    assert torch.equal(compared.vector.tensor, alone.vector.tensor)
    assert compared.evaluations == alone.evaluations
    assert all(preview.shape == (1, 4, 32, 32) for preview in previews)
    plain, steered = zip(*(preview.chunk(2, dim=2) for preview in previews), strict=True)
    assert all(torch.equal(image, plain[0]) for image in plain)
    assert torch.equal(steered[0], plain[0])  # there is no vector yet
    assert len({image.sum().item() for image in steered}) == 4  # steps 1, 2, 4 and 6


def test_calibration_scales_a_vector_to_a_reach_of_1(monkeypatch):
    reaches = []

    def spy(*values):
        reaches.append(Reach(*values))
        return reaches[-1]

    options = {"steps": 40, "batch_size": 4, "width": 64, "height": 64, "learning_rate": 10.0, "guidance": 100.0}
    raw, calibrated = find(calibrate=False, **options), find(**options)
    reach = raw.vector.provenance.reach
    assert reach > 1
    assert raw.vector.provenance.scale == 1
    torch.testing.assert_close(calibrated.vector.tensor, raw.vector.tensor / reach, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr(distilled, "Reach", spy)
    options |= {"steps": 16, "learning_rate": 3.0, "guidance": 3.0}
    raw = find(calibrate=False, **options)
    clear = torch.cat([reach.values[reach.clear] for reach in reaches]).mean().item()
    calibrated = find(**options)
    reach = raw.vector.provenance.reach
    assert 0 < reach < 0.5
    scale = 0.75 + 1.35 * clear  # and no further
    assert 1 < scale < 1 / reach
    assert calibrated.vector.provenance.scale == pytest.approx(scale)
    torch.testing.assert_close(calibrated.vector.tensor, scale * raw.vector.tensor)


@pytest.mark.parametrize(
    ("reach", "clear", "scale", "beyond"),
    [
        (2.0, 1.0, 0.5, 1.0),
        (1.0, 1.0, 1.0, 1.3),
        (1.0, 0.2, 1.0, 1.02),
        (0.8, 0.6, 1.25, 1.56),
        (0.5, 0.6, 1.56, 1.56),
        (0.5, 0.8, 1.6, 1.6),
        (0.5, 0.2, 1.02, 1.02),
        (0.5, 0.1, 1.0, 1.0),
        (0.5, None, 1.0, 1.0),
        (0.0, 0.6, 1.0, 1.0),
    ],
)
@pytest.mark.parametrize("avoids", [False, True])
def test_the_less_of_its_concept_a_vector_explains_the_less_it_is_scaled_up(reach, clear, scale, beyond, avoids):
    """Where there is something to avoid it is not scaled down, and one with responses goes beyond its concept."""
    optimiser = VectorOptimiser({0: torch.zeros(1, 1, 1)}, DISTILLED, DiscoverySettings("a", steps=1), avoids)
    optimiser.tensors[0].sum().backward()
    values = torch.tensor([reach if clear is None else 2 * reach - clear, *([] if clear is None else [clear])])
    optimiser._errors, optimiser._reaches = [torch.ones(1)], [Reach(values, torch.arange(len(values)) > 0)]
    optimiser.descend()
    assert optimiser.scale == pytest.approx(max(scale, 1.0) if avoids else scale)
    optimiser.responses = {0: Response(torch.zeros(1, 1), torch.zeros(1, 1))}
    assert optimiser.settled == (reach == 0)
    assert optimiser.scale == 1
    wanted = beyond if avoids else scale
    for longest in (1.1, 10.0):
        optimiser.longest = longest
        assert optimiser.scale == pytest.approx(min(wanted, longest))


def test_a_sample_counts_by_what_the_teacher_asks_for():
    """The weighted error is the geometric mean of the relative and the squared one."""
    base, scale = torch.zeros(4, 4, 2, 2), torch.ones(4, 1, 1, 1)
    target = torch.randn(4, 4, 2, 2) * torch.tensor([0.01, 0.1, 1.0, 3.0]).view(4, 1, 1, 1)
    predicted = 0.3 * target + 0.01
    relative = relative_error(predicted, target, base, scale)
    weighted = relative * by_requested_change(target, base, scale) / GRADIENT_SCALE
    torch.testing.assert_close(weighted**2, relative * squared_error(predicted, target, base, scale))
    assert (alike(target, base, scale) == 1).all()


def test_reach_of_the_teacher_itself():
    base, concept, scale = torch.zeros(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.ones(3, 1, 1, 1)
    target = teacher_target(base, concept, 3.0)
    for predicted, reach in ((base, 0.0), (concept, 1.0), (target, 3.0)):
        found = relative_reach(predicted, named_concept({"base": base, "concept": concept}), base, scale)
        torch.testing.assert_close(found, torch.full((3,), reach))


def test_what_is_avoided_does_not_change_how_far_the_concept_is():
    """With pairs that unsay, base and avoid are one prompt, and the teacher goes twice as far; the concept does not."""
    base, concept, scale = torch.zeros(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.ones(3, 1, 1, 1)
    unsaid = {"base": base, "concept": concept, "avoid": base}
    torch.testing.assert_close(relative_reach(concept, named_concept(unsaid), base, scale), torch.ones(3))
    avoided = named_concept({"base": base, "avoid": -concept})  # and nothing else names the concept
    torch.testing.assert_close(relative_reach(concept, avoided, base, scale), torch.ones(3))


def test_metadata_says_that_the_model_was_patched():
    model = tiny_model()
    key = "diffusion_model.out.2.bias"
    model.add_patches({key: ("diff", (torch.ones_like(model.model.state_dict()[key]),))})
    assert find(model).vector.provenance.model_patches == "1 weights (LoRA, merge ...)"
    assert not find().vector.provenance.model_patches


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_checkpointing_changes_no_bit_and_leaves_the_layers_as_they_were(method):
    model = tiny_model()
    kept = find(model, method=method)
    recomputed = find(model, method=method, gradient_checkpointing=True)
    assert torch.equal(kept.vector.tensor, recomputed.vector.tensor)
    assert not any("forward" in vars(module) for module in model.model.modules())


def test_checkpointing_shows_patches_the_block_that_runs():
    """The backward pass runs layers a second time, when transformer_options has gone on to name later blocks."""
    seen = {}
    for checkpointing in (False, True):
        blocks = []

        def attend(n, context, value, options, blocks=blocks):
            blocks.append((torch.is_grad_enabled(), options["block"]))
            return n, context, value

        model = tiny_model()
        model.set_model_attn2_patch(attend)
        find(model, steps=1, samples=torch.zeros(2, 4, 16, 16), gradient_checkpointing=checkpointing)
        seen[checkpointing] = blocks
    decoder = [entry for entry in seen[False] if entry[0] and entry[1][0] == "output"]
    assert decoder
    assert sorted(seen[True]) == sorted(seen[False] + decoder)


def mixed_samples():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in ((3, 4, 16, 16), (2, 4, 16, 24), (1, 4, 16, 16))]


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_samples_of_several_sizes(method):
    found = find(
        method=method,
        steps=12,
        samples=mixed_samples(),
        concept=conditioning(1, entries=2),
        base=conditioning(2, entries=2),
    )
    assert found.vector.tensor.shape == (64, 8, 8)  # of the size that most images have
    assert len(found.losses) == 12
    one_by_one = [image for batch in mixed_samples() for image in batch.split(1)]
    again = find(
        method=method, steps=12, samples=one_by_one, concept=conditioning(1, entries=2), base=conditioning(2, entries=2)
    )
    assert torch.equal(found.vector.tensor, again.vector.tensor)


def test_every_size_and_pair_is_learnt_from():
    """Image i belongs to pair i modulo the number of pairs, counted over all sizes; a batch is of one size."""
    seen = []

    def states(run, samples):
        of_images = run.model.prompts.of_images
        run.model.prompts.of_images = lambda pairs: seen.append([tuple(pairs)]) or of_images(pairs)
        predict = run.model.predict

        def watched(prompts, x, *args, **kwargs):
            seen[-1].append(tuple(x.shape[2:]))
            return predict(prompts, x, *args, **kwargs)

        run.model.predict = watched
        return DISTILLED.states(run, samples)

    find(
        steps=40,
        samples=mixed_samples(),
        concept=conditioning(1, entries=3),
        base=conditioning(2, entries=3),
        recipe=replace(DISTILLED, states=states),
    )
    seen = [(sizes[0], pairs) for pairs, *sizes in seen]
    assert {pairs for size, pairs in seen if size == (16, 24)} <= {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert {pair for size, pairs in seen if size == (16, 24) for pair in pairs} == {0, 1}
    assert {pair for size, pairs in seen if size == (16, 16) for pair in pairs} == {0, 1, 2}


def test_several_sizes_do_not_fit_a_prompt_that_carries_an_image(monkeypatch):
    import comfy.conds

    model = tiny_model()
    image = comfy.conds.CONDNoiseShape(torch.zeros(1, 5, 16, 16))
    extra = model.model.extra_conds
    monkeypatch.setattr(model.model, "extra_conds", lambda **given: {**extra(**given), "c_concat": image})
    with pytest.raises(ValueError, match=r"samples: .*2 sizes"):
        find(model, samples=mixed_samples())


def test_lists_of_prompts_are_pairs_and_of_anything_else_an_error():
    given = {"model": tiny_model(), "concept": conditioning(1), "base": conditioning(2), **FAST}
    lists = {key: [value] for key, value in given.items()}
    node = node_classes()["HSpaceDiscoverConcept"].PREPARE_CLASS_CLONE({})
    lists |= {
        "concept": [conditioning(1), conditioning(3)],
        "base": [conditioning(2), conditioning(4)],
        "name": ["two"],
        "method": ["distilled"],
        "learning_rate": [0.1],
        "guidance": [3.0],
        "seed": [0],
    }
    with torch.inference_mode():
        concept = node.execute(**lists).result[0]
        assert concept.provenance.pairs == 2
        with pytest.raises(ValueError, match="seed: 2 values"):
            node.execute(**{**lists, "seed": [0, 1]})


def test_a_crash_loses_no_more_than_a_minute(vector_folder, monkeypatch):
    """Nothing runs after a crash, so what it leaves is what was saved before it: here after each step."""

    class Crash(BaseException):
        pass

    class Crashing(NodeObserver):
        def step(self, progress):
            if progress.step == 4:
                raise Crash
            super().step(progress)

        def stopped(self, vector):
            pass

    def crashing():
        return Crashing(tiny_model(), 6, "test", 0, None)

    monkeypatch.setattr(autosave, "EVERY", 0.0)
    with pytest.raises(Crash):
        find(observer=crashing())
    (path,) = vector_folder.glob("partial/*.safetensors")
    saved = load_concept(path)
    assert saved.provenance.steps == 3
    samples = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with pytest.raises(Crash):
        find(observer=crashing(), samples=samples)
    resumed = find(start_from=load_concept(vector_folder / "partial" / "test_2.safetensors"), samples=samples)
    assert torch.equal(resumed.vector.tensor, find(samples=samples).vector.tensor)


def test_a_finished_discovery_leaves_no_partial_file(vector_folder, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    observer, saved = NodeObserver(tiny_model(), 6, "test", 0, None), []
    step = observer.step
    observer.step = lambda progress: step(progress) or saved.append(observer.file.path is not None)
    find(observer=observer)
    assert saved[-1]
    assert not list(vector_folder.glob("partial/*"))


def test_a_concept_that_the_base_shows_anyway_is_noted():
    base, other, empty = conditioning(2), conditioning(1), conditioning(3)
    nearly = [[torch.lerp(base[0][0], other[0][0], 0.05), base[0][1]]]
    for concept, noted in ((nearly, True), (other, False)):
        observer = Notes()
        settings = DiscoverySettings("test", steps=4, batch_size=2, sample_count=2, width=64, height=64)
        with torch.inference_mode():
            discover(tiny_model(), PromptPairs(concept, base, empty=empty), settings, observer=observer)
        assert any("nothing to learn" in text for text in observer.texts) == noted, observer.texts
