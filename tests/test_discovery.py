"""Discovery on tiny real U-Nets: the optimiser's gradient, frozen weights, reproducibility, resume and cancel."""

import hashlib

import comfy.model_management
import comfy.samplers
import pytest
import torch
from hspace_steering.hspace.autosave import PartialFile
from hspace_steering.hspace.discovery import discover
from hspace_steering.hspace.objective import relative_reach, teacher_target
from hspace_steering.hspace.settings import DiscoverySettings
from hspace_steering.hspace.vector_file import load_direction
from hspace_test_helpers import (
    TinyVPrediction,
    conditioning,
    direction,
    node_classes,
    run_node,
    sample,
    tiny_model,
)

FAST = {"steps": 6, "batch_size": 2, "sample_count": 4, "width": 128, "height": 128}


def settings(**changes):
    return DiscoverySettings("test", **{**FAST, **changes})


def find(model=None, concept=None, base=None, listener=None, **changes):
    """A discovery inside inference mode, as a node runs it."""
    extra = {key: changes.pop(key) for key in ("samples", "avoid", "start_from", "keep_partial", "compare_every", "partial_file")
             if key in changes}  # fmt: skip
    with torch.inference_mode():
        return discover(
            model or tiny_model(), concept or conditioning(1), base or conditioning(2), settings(**changes),
            listener=listener, **extra,
        )  # fmt: skip


def weights_hash(model):
    digest = hashlib.sha256()
    for key, value in sorted(model.model.state_dict().items()):
        digest.update(key.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("method", ["distilled", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finds_a_vector_and_leaves_the_model_as_it_was(method, dtype):
    model = tiny_model(dtype=dtype)
    before, drawn = weights_hash(model), sample(model)
    parameters = {name: id(p) for name, p in model.model.named_parameters()}
    found = find(model, method=method)
    assert found.direction.tensor.shape == (64, 8, 8)
    assert found.direction.tensor.abs().mean() > 0
    assert len(found.losses) == 6
    assert weights_hash(model) == before
    assert {name: id(p) for name, p in model.model.named_parameters()} == parameters
    assert not any(p.requires_grad and p.grad is not None for p in model.model.parameters())
    assert torch.equal(sample(model), drawn)


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_same_seed_same_bits(method):
    a, b, other = find(method=method), find(method=method), find(method=method, seed=1)
    assert torch.equal(a.direction.tensor, b.direction.tensor)
    assert a.losses == b.losses
    assert not torch.equal(a.direction.tensor, other.direction.tensor)


def test_distilled_learns_what_the_prompt_left_out():
    """The loss is the unexplained share of the teacher's difference: 1 with no vector, less with one."""
    samples = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    found = find(steps=40, batch_size=4, samples=samples, learning_rate=0.02)
    assert found.losses[0] == pytest.approx(1, abs=1e-3)
    assert sum(found.losses[-8:]) / 8 < 0.97


@pytest.mark.parametrize("config", [None, TinyVPrediction])
@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_gradient_against_finite_differences_in_float64(method, config):
    from hspace_steering.hspace import learner as module

    model = tiny_model(dtype=torch.float64, **({"config_class": config} if config else {}))
    samples = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    family = config.__name__ if config else "TinyModel"
    start = direction(seed=5, family=family)
    seen = {}

    class Probe(module.Learner):
        def descend(self, errors):
            seen["loss"] = errors.detach().sum().item()
            (seen["gradient"],) = torch.autograd.grad(errors.sum(), self.vector)
            self.losses.append(0.0)

    from hspace_steering.hspace import discovery

    def probe(vector):
        original, discovery.Learner = discovery.Learner, Probe
        try:
            find(model, method=method, steps=1, samples=samples, start_from=vector)
        finally:
            discovery.Learner = original
        return seen["loss"], seen["gradient"]

    _, gradient = probe(start)
    along = gradient / gradient.norm()
    step = 0.05
    moved = [probe(type(start)(start.tensor + sign * step * along.float(), "moved", family))[0] for sign in (1, -1)]
    measured = (moved[0] - moved[1]) / (2 * step)
    assert measured == pytest.approx(gradient.norm().item(), rel=1e-3)


def test_several_pairs_and_different_lengths():
    found = find(concept=conditioning(1, entries=3), base=conditioning(2, entries=2) + conditioning(4, tokens=14))
    assert found.direction.metadata["pairs"] == "3"


def test_pairs_of_a_batch_are_what_they_are_alone():
    """Image i of a mixed batch sees exactly its own prompt."""
    from hspace_steering.hspace import conditioning as cond

    model = tiny_model()
    prompts = conditioning(1, entries=2) + conditioning(3, tokens=14)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"base": prompts})
    outputs = {}

    class Look(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
            conds, options, inner = model_wrap.conds["base"], extra_args["model_options"], model_wrap.inner_model
            x, sigma = noise * sigmas[0], sigmas[:1].expand(3)
            outputs["mixed"] = comfy.samplers.calc_cond_batch(inner, [cond.rows(conds, [2, 0, 1])], x, sigma, options)[
                0
            ]
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
    from hspace_steering.hspace.steering import apply_steering
    from hspace_test_helpers import record_h

    seen = []
    for strength in (0.0, 1.0):
        recording, recorded = record_h(apply_steering(tiny_model(), direction(), strength))
        find(recording, steps=1, samples=torch.zeros(2, 4, 16, 16))
        seen.append(recorded[0])
    assert len(seen[0]["cond_or_uncond"]) == 2
    added = seen[1]["h"] - seen[0]["h"]
    torch.testing.assert_close(added, direction().tensor.expand(4, -1, -1, -1), rtol=1e-3, atol=1e-3)


def test_avoid_changes_what_is_found():
    same = conditioning(2)
    found = find(concept=same, base=same, avoid=conditioning(9))
    assert found.direction.tensor.abs().mean() > 0
    assert found.losses[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concept": conditioning(1, entries=2)}, "concept holds 2 prompts and base 1"),
        ({"avoid": conditioning(1, entries=3)}, "avoid holds 3"),
        ({"concept": []}, "concept"),
        ({"samples": torch.zeros(1, 16, 8, 8)}, "samples: .*4 latent channels"),
        ({"width": 100}, "width: 100"),
        ({"name": " "}, "name"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"start_from": direction(family="SD1", shape=(1280, 8, 8))}, "SD1"),
        ({"base": [[torch.zeros(1, 7, 16), {"mask": torch.ones(1, 8, 8)}]]}, "base: .*mask"),
    ],
)
def test_errors_name_the_input(changes, words):
    base = {"concept": conditioning(1), "base": conditioning(2)}
    concept, base = (changes.pop(key, default) for key, default in base.items())
    name = changes.pop("name", "test")
    extra = {key: changes.pop(key) for key in ("samples", "avoid", "start_from") if key in changes}
    with pytest.raises(ValueError, match=words), torch.inference_mode():
        discover(tiny_model(), concept, base, DiscoverySettings(name, **{**FAST, **changes}), **extra)


class Stop:
    """A listener that presses cancel at a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, progress):
        if progress.step == self.step:
            comfy.model_management.interrupt_current_processing()


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_cancel_within_a_step_keeps_what_was_found_and_resumes(method, vector_folder):
    model, kept = tiny_model(), []
    before = weights_hash(model)
    samples = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(model, method=method, samples=samples, listener=Stop(3), keep_partial=kept.append)
    assert weights_hash(model) == before
    (partial,) = kept
    assert partial.metadata["steps"] in ("3", "4")
    from hspace_steering.nodes.discover import keep_partial

    keep_partial(partial, PartialFile("test"))
    (path,) = vector_folder.glob("partial/*.safetensors")
    resumed = find(model, method=method, samples=samples, start_from=load_direction(path))
    whole = find(model, method=method, samples=samples)
    assert len(resumed.losses) == 6 - int(partial.metadata["steps"])
    assert torch.equal(resumed.direction.tensor, whole.direction.tensor)
    assert not whole.direction.extra


@pytest.mark.parametrize("stop", [2, 5])
def test_spatial_mean_is_one_value_a_channel_and_resumes_from_its_map(stop):
    """Whether it stops while the map is learnt or, in the last quarter, its mean."""
    samples, kept = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3)), []
    whole = find(samples=samples, spatial_mean=True).direction
    assert whole.tensor.shape == (64, 1, 1)
    assert whole.metadata["spatial_mean"] == "true"
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(samples=samples, spatial_mean=True, listener=Stop(stop), keep_partial=kept.append)
    (partial,) = kept
    assert partial.tensor.shape == (64, 8, 8)
    assert "spatial_mean" not in partial.metadata
    resumed = find(samples=samples, spatial_mean=True, start_from=partial).direction
    assert torch.equal(resumed.tensor, whole.tensor)


def fail_at(step):
    """A listener that raises after that step."""

    def fail(progress):
        if progress.step == step:
            raise OSError("disk full")

    return fail


def test_the_last_steps_learn_with_the_mean():
    """Which has the same gradient everywhere."""
    samples, moments = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3)), {}
    for steps in (5, 6, 7):
        kept = []
        with pytest.raises(OSError, match="disk full"):
            find(samples=samples, spatial_mean=True, steps=8, listener=fail_at(steps), keep_partial=kept.append)
        moments[steps] = kept[0].extra["exp_avg"]
    of_map, of_mean = (moments[step] - 0.9 * moments[step - 1] for step in (6, 7))
    assert of_map.std((1, 2)).min() > 1e-3 * of_map.abs().max()
    assert of_mean.std((1, 2)).max() < 1e-5 * of_map.abs().max()


def test_failure_keeps_what_was_found():
    kept = []
    with pytest.raises(OSError, match="disk full"):
        find(listener=fail_at(2), keep_partial=kept.append)
    assert kept[0].metadata["steps"] == "2"


def test_masked_samples_are_refused():
    samples = {"samples": torch.zeros(1, 4, 16, 16), "noise_mask": torch.ones(1, 1, 128, 128)}
    with pytest.raises(ValueError, match=r"samples: .*noise mask"):
        run_node(
            "HSpaceDiscoverConcept", model=tiny_model(), concept=conditioning(1), base=conditioning(2), samples=samples
        )


def test_one_prompt_on_both_sides_teaches_nothing():
    same = conditioning(2)
    with pytest.raises(ValueError, match="concept: the same prompt as base"):
        find(concept=same, base=same)


def test_node_outputs(vector_folder):
    concept, plot, samples = run_node(
        "HSpaceDiscoverConcept", model=tiny_model(), concept=conditioning(1), base=conditioning(2), **FAST
    )
    assert plot.shape == (1, 512, 768, 3)
    assert [batch["samples"].shape[1:] for batch in samples] == [(4, 16, 16)]
    assert {"base_model", "prediction_type", "final_loss", "seed", "method"} <= set(concept.metadata)
    (path,) = run_node("HSpaceSaveConcept", concept=concept, filename_prefix="mine/test")
    assert path == str(vector_folder / "mine" / "test.safetensors")
    (loaded,) = run_node("HSpaceLoadConcept", concept_name="mine/test.safetensors")
    assert torch.equal(loaded.tensor, concept.tensor)


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_comparison_shows_plain_above_steered_and_changes_no_bit(method):
    previews = []
    compared = find(method=method, compare_every=2, listener=lambda progress: previews.append(progress.preview))
    alone = find(method=method)
    assert torch.equal(compared.direction.tensor, alone.direction.tensor)
    assert compared.evaluations == alone.evaluations
    assert all(preview.shape == (1, 4, 32, 32) for preview in previews)
    plain, steered = zip(*(preview.chunk(2, dim=2) for preview in previews), strict=True)
    assert all(torch.equal(image, plain[0]) for image in plain)
    assert torch.equal(steered[0], plain[0])  # there is no vector yet
    assert len({image.sum().item() for image in steered}) == 4  # steps 1, 2, 4 and 6


def test_calibration_scales_an_overshooting_vector_to_a_reach_of_1():
    options = {"steps": 40, "batch_size": 4, "learning_rate": 1.0, "guidance": 100.0}
    raw, calibrated = find(calibrate=False, **options), find(**options)
    reach = float(raw.direction.metadata["reach"])
    assert reach > 1
    assert raw.direction.metadata["scale"] == "1"
    torch.testing.assert_close(calibrated.direction.tensor, raw.direction.tensor / reach, rtol=1e-3, atol=1e-6)
    assert torch.equal(find(guidance=0.1).direction.tensor, find(guidance=0.1, calibrate=False).direction.tensor)


def test_reach_of_the_teacher_itself():
    base, concept, scale = torch.zeros(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.ones(3, 1, 1, 1)
    target = teacher_target(base, concept, 3.0)
    for predicted, reach in ((base, 0.0), (concept, 1.0), (target, 3.0)):
        found = relative_reach(predicted, target, base, scale, 3.0)
        torch.testing.assert_close(found, torch.full((3,), reach))


def test_metadata_says_that_the_model_was_patched():
    model = tiny_model()
    key = "diffusion_model.out.2.bias"
    model.add_patches({key: ("diff", (torch.ones_like(model.model.state_dict()[key]),))})
    assert find(model).direction.metadata["model_patches"] == "1 weights (LoRA, merge ...)"
    assert "model_patches" not in find().direction.metadata


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_checkpointing_changes_no_bit_and_leaves_the_layers_as_they_were(method):
    model = tiny_model()
    kept = find(model, method=method)
    recomputed = find(model, method=method, gradient_checkpointing=True)
    assert torch.equal(kept.direction.tensor, recomputed.direction.tensor)
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
    found = find(method=method, steps=12, samples=mixed_samples(), concept=conditioning(1, entries=2),
                 base=conditioning(2, entries=2))  # fmt: skip
    assert found.direction.tensor.shape == (64, 8, 8)  # of the size that most images have
    assert len(found.losses) == 12
    one_by_one = [image for batch in mixed_samples() for image in batch.split(1)]
    again = find(method=method, steps=12, samples=one_by_one, concept=conditioning(1, entries=2),
                 base=conditioning(2, entries=2))  # fmt: skip
    assert torch.equal(found.direction.tensor, again.direction.tensor)


def test_every_size_and_pair_is_learnt_from():
    """Image i belongs to pair i modulo the number of pairs, counted over all sizes; a batch is of one size."""
    from hspace_steering.hspace import learner

    seen = []

    class Watch(learner.Learner):
        def teach(self, x, sigma, pairs):
            seen.append((tuple(x.shape[2:]), tuple(pairs)))
            return super().teach(x, sigma, pairs)

    from unittest.mock import patch

    from hspace_steering.hspace import discovery

    with patch.object(discovery, "Learner", Watch):
        find(steps=40, samples=mixed_samples(), concept=conditioning(1, entries=3), base=conditioning(2, entries=3))
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
    lists |= {"concept": [conditioning(1), conditioning(3)], "base": [conditioning(2), conditioning(4)], "name": ["two"],
              "method": ["distilled"], "learning_rate": [0.1], "guidance": [3.0], "seed": [0]}  # fmt: skip
    with torch.inference_mode():
        concept = node.execute(**lists).result[0]
        assert concept.metadata["pairs"] == "2"
        with pytest.raises(ValueError, match="seed: 2 values"):
            node.execute(**{**lists, "seed": [0, 1]})


def test_a_crash_loses_no_more_than_a_minute(vector_folder, monkeypatch):
    """Nothing runs after a crash, so what it leaves is what was saved before it: here after each step."""
    from hspace_steering.hspace import autosave

    class Crash(BaseException):
        pass

    def crash(progress):
        if progress.step == 4:
            raise Crash

    monkeypatch.setattr(autosave, "EVERY", 0.0)
    with pytest.raises(Crash):
        find(listener=crash, partial_file=PartialFile("test"))
    (path,) = vector_folder.glob("partial/*.safetensors")
    saved = load_direction(path)
    assert saved.metadata["steps"] == "3"
    samples = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with pytest.raises(Crash):
        find(listener=crash, partial_file=PartialFile("test"), samples=samples)
    resumed = find(start_from=load_direction(vector_folder / "partial" / "test_2.safetensors"), samples=samples)
    assert torch.equal(resumed.direction.tensor, find(samples=samples).direction.tensor)


def test_a_finished_discovery_leaves_no_partial_file(vector_folder, monkeypatch):
    from hspace_steering.hspace import autosave

    monkeypatch.setattr(autosave, "EVERY", 0.0)
    file, saved = PartialFile("test"), []
    find(listener=lambda progress: saved.append(file.path is not None), partial_file=file)
    assert saved[-1]
    assert not list(vector_folder.glob("partial/*"))
