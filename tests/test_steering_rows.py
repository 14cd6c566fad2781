"""Which rows of a call are steered, where other nodes stack tiles, sample a part of a batch, or skip the patch."""

import copy
import inspect
import io
from types import SimpleNamespace

import pytest
import torch

import nodes
from helpers import conditioning, random_vector, run_node, sample, tiny_model
from hspace.bottleneck import base_model
from hspace.comfy_compat import window_indices
from hspace.concepts import Choice, Sum, Sweep, Varied
from hspace.steering import apply_steering, steer_conditioning
from hspace.steering.places import find_places
from hspace.steering.rows import Rows, find_rows
from hspace.steering.state import SteeringCall

MAN, WOMAN = random_vector(name="man"), random_vector(name="woman", seed=1)
CHOICE = Choice((MAN, WOMAN), (1, 1), seed=3)
STRENGTH = 3.0
BESIDE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def tiled(model, stacked: int):
    """A clone that shows the U-Net four tiles of the image, `stacked` in one call, as tiled-diffusion nodes do."""

    def wrapper(apply_model, options):
        x, t, prepared = options["input"], options["timestep"], options["c"]
        half = x.shape[-1] // 2
        corners = [
            (slice(None), slice(None), slice(i, i + half), slice(j, j + half)) for i in (0, half) for j in (0, half)
        ]
        out = torch.zeros_like(x)
        for start in range(0, 4, stacked):
            group = corners[start : start + stacked]
            c = {
                key: value.repeat(len(group), *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) else value
                for key, value in prepared.items()
            }
            tiles = apply_model(torch.cat([x[corner] for corner in group]), t.repeat(len(group)), **c)
            for corner, tile in zip(group, tiles.chunk(len(group)), strict=True):
                out[corner] = tile
        return out

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


@pytest.mark.parametrize("stacked", [2, 4])
@pytest.mark.parametrize("half", ["positive", "negative", "both"])
@pytest.mark.parametrize("concept", [MAN, CHOICE, Sweep(MAN, -1.0, 1.0)], ids=["alike", "choice", "sweep"])
def test_stacked_tiles_are_as_one_by_one(model, stacked, half, concept):
    """A tile at a time, chunks and images are where ComfyUI puts them."""
    steered = apply_steering(model, concept, STRENGTH, half=half)
    wanted = sample(tiled(steered, 1), batch=3, steps=2)
    torch.testing.assert_close(sample(tiled(steered, stacked), batch=3, steps=2), wanted, **BESIDE)
    assert not torch.allclose(wanted, sample(tiled(model, 1), batch=3, steps=2), atol=0.1)


def test_stacked_tiles_with_a_mask_for_each_image(model):
    masks = torch.stack([torch.full((16, 16), share) for share in (0.0, 0.5, 1.0)])
    steered = apply_steering(model, MAN, STRENGTH, mask=masks)
    wanted = sample(tiled(steered, 1), batch=3, steps=2)
    torch.testing.assert_close(sample(tiled(steered, 4), batch=3, steps=2), wanted, **BESIDE)


@pytest.mark.parametrize("concept", [MAN, CHOICE], ids=["alike", "choice"])
def test_stacked_tiles_with_one_steered_prompt(model, concept):
    prompt = steer_conditioning(conditioning(1), concept, STRENGTH)
    wanted = sample(tiled(model, 1), prompt, batch=3, steps=2)
    if concept is MAN:
        torch.testing.assert_close(sample(tiled(model, 4), prompt, batch=3, steps=2), wanted, **BESIDE)
    else:  # each prompt is in a call of its own, so nothing tells tiles from images
        with pytest.raises(ValueError, match="concept: gives each of 3 images its own share"):
            sample(tiled(model, 4), prompt, batch=3, steps=2)


def test_rows_in_an_order_that_nothing_tells_are_refused(model):
    same = conditioning(1)
    for half, concept in (("positive", MAN), ("both", CHOICE)):
        steered = tiled(apply_steering(model, concept, STRENGTH, half=half), 4)
        with pytest.raises(ValueError, match=r"^concept: .*, but another node calls the model on"):
            sample(steered, same, same, batch=3, steps=1)
    sample(tiled(apply_steering(model, MAN, STRENGTH, half="both"), 4), same, same, batch=3, steps=1)


def test_orders_of_rows():
    a, b = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)

    def stack(text):
        return torch.cat([{"a": a, "b": b}[letter] for letter in text])

    def rows(text, images):
        return find_rows(len(text), 2, images, stack(text))

    assert rows("aabb", 2) == Rows(2, 1, True)
    assert rows("aabbaabb", 2) == Rows(2, 2, True)
    assert rows("abab", 1) == Rows(1, 2, True)
    assert rows("aaaabbbb", 2) == Rows(4, 1, False), "all tiles of one half, then those of the other"
    assert rows("abababab", 2) == Rows(1, 4, False)
    assert rows("ab", 3) == Rows(1, 1, False), "a part of the batch"
    assert rows("abba", 1) is None
    assert rows("aaaa", 1) is None
    assert rows("aab", 1) is None
    assert find_rows(4, 2, 1, None) is None
    each = torch.arange(4.0).reshape(4, 1, 1)  # prompts differ between images
    assert find_rows(8, 2, 2, each.repeat(2, 1, 1)) == Rows(2, 2, True)
    assert find_rows(8, 2, 2, each.repeat_interleave(2, 0)) is None


KSAMPLER = {"seed": 5, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def ksampler(model, latent):
    inputs = {"positive": conditioning(1), "negative": conditioning(2), **KSAMPLER}
    with torch.inference_mode():
        return nodes.KSampler().sample(model=model, latent_image=latent, **inputs)[0]["samples"]


def rebatched(latent, size):
    from comfy_extras.nodes_rebatch import LatentRebatch

    return LatentRebatch.execute([latent], [size]).result[0]


@pytest.mark.parametrize("size", [1, 2])
def test_each_image_keeps_its_share_through_rebatch_latents(model, size):
    masks = torch.stack([torch.full((16, 16), share) for share in (0.0, 0.5, 1.0)])
    latent = {"samples": torch.zeros(5, 4, 16, 16)}
    concepts = (CHOICE, Varied(MAN, -1.0, 1.0, seed=2))
    steered_models = [apply_steering(model, concept, STRENGTH) for concept in concepts]
    for steered in (*steered_models, apply_steering(model, MAN, STRENGTH, mask=masks)):
        wanted = ksampler(steered, latent)
        found = torch.cat([ksampler(steered, part) for part in rebatched(latent, size)])
        torch.testing.assert_close(found, wanted, **BESIDE)


def test_each_image_keeps_its_share_when_one_is_sampled_again(model):
    latent = {"samples": torch.zeros(4, 4, 16, 16)}
    steered = apply_steering(model, CHOICE, STRENGTH)
    (third,) = nodes.LatentFromBatch().frombatch(latent, 2, 1)
    torch.testing.assert_close(ksampler(steered, third), ksampler(steered, latent)[2:3], **BESIDE)


def test_a_sweep_that_starts_again_is_warned_about(model, caplog):
    latent = {"samples": torch.zeros(4, 4, 16, 16)}
    steered = apply_steering(model, Sweep(MAN, -1.0, 1.0), STRENGTH)
    ksampler(steered, latent)
    assert not caplog.records
    for part in rebatched(latent, 2):
        ksampler(steered, part)
    assert [record.getMessage().count("the sweep starts again") for record in caplog.records] == [1]


def test_places():
    def noise(indices, seed=7, size=(4, 8, 8)):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(max(indices) + 1, *size, generator=generator)
        return drawn[list(indices)]

    assert find_places(noise([3]), 7) == (3,)
    assert find_places(noise([2, 0]), 7) == (2, 0)
    for whole in (noise([0]), noise([0, 1, 2]), noise([1, 1]), torch.zeros(2, 4, 8, 8), noise([3]).double()):
        assert find_places(whole, 7) is None
    assert find_places(noise([3]), 8) is None, "noise of another source"
    assert find_places(noise([3]), None) is None
    before = torch.random.get_rng_state()
    find_places(noise([3]), 7)
    assert torch.equal(before, torch.random.get_rng_state())


def skipping(model):
    """A clone whose forward pass is replaced by one that knows no output patches."""

    def wrapper(apply_model, options):
        return options["input"] * 0.5

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def test_a_run_in_which_the_patch_never_ran_is_warned_about(model, caplog):
    sample(apply_steering(model, MAN, 1.0))
    sample(apply_steering(model, MAN, 1.0, half="negative"), cfg=1.0)  # it ran, and there was nothing to steer
    sample(model, steer_conditioning(conditioning(1), MAN, 1.0))
    assert not caplog.records
    sample(skipping(apply_steering(model, MAN, 1.0)), steps=3)
    assert [record.getMessage().count("nothing was steered") for record in caplog.records] == [1]


def test_a_mask_on_a_crop_is_warned_about(model, caplog):
    """A detailer samples a crop of the image with the model that has a mask for all of it."""
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    steered = apply_steering(model, MAN, 1.0, mask=mask)
    sample(steered, steps=1, size=16)
    sample(steered, steps=1, size=24)  # a second pass at a higher resolution
    assert not caplog.records
    sample(steered, steps=1, size=8)
    assert [record.getMessage().count("a detailer's") for record in caplog.records] == [1]


def test_whatever_is_put_into_graphs_can_be_copied_and_saved(model):
    concept = Sum(((1.0, CHOICE), (0.5, Sweep(WOMAN, 0.0, 1.0))))
    (rules,) = run_node("HSpacePromptRule", concept=concept, topic="gender", phrases="any")
    (hooked,) = run_node("HSpaceSteerConditioning", conditioning=conditioning(1), concept=concept, strength=2.0)
    for value in (concept, MAN, rules, hooked):
        for again in (copy.deepcopy(value), through_a_file(value)):
            assert type(again) is type(value)
    wanted = sample(model, hooked, batch=3, steps=2)
    for again in (copy.deepcopy(hooked), through_a_file(hooked)):
        assert torch.equal(sample(model, again, batch=3, steps=2), wanted)
    steered = apply_steering(model, concept, 2.0)
    wanted = sample(steered, batch=3, steps=2)
    steered.model_options = copy.deepcopy(steered.model_options)
    assert torch.equal(sample(steered, batch=3, steps=2), wanted)


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("weight", [None, torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse()])
def test_apply_reads_no_weights(weight):
    """Some layers have no weight that can be read, or none at all."""
    model = tiny_model()
    assert base_model(model).startswith("TinyModel:")
    del model.model.diffusion_model.out[2].weight
    if weight is not None:
        model.model.diffusion_model.out[2].weight = weight
    apply_steering(model, MAN, 1.0)
    assert base_model(model) == "TinyModel"


def test_more_than_the_model_can_hold_is_an_error(model):
    with pytest.raises(ValueError, match=r"^strength: the vector times its strength is more than torch.float32 can"):
        sample(apply_steering(model, MAN, 3e38), steps=1)
    call = SteeringCall((True,), 1, {0: torch.tensor([[1e5]])}, [MAN.tensors], None)
    with pytest.raises(ValueError, match=r"^strength: the vector times its strength is more than torch.float16 can"):
        call.finish({0: (8, 8)}, torch.device("cpu"), torch.float16)


def windowed(model):
    """A clone that is shown two images of the batch at a time."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Windows

    newer = {"freenoise": False} if "freenoise" in inspect.signature(Windows.execute).parameters else {}
    return Windows.execute(model, 2, 1, "standard_static", 1, False, "pyramid", 0, **newer).result[0]


@pytest.mark.parametrize("concept", [CHOICE, Sweep(MAN, -1.0, 1.0)], ids=["choice", "sweep"])
def test_each_image_keeps_its_share_through_context_windows(model, concept):
    """Newer versions put one more image before those of a window."""
    masks = torch.stack([torch.full((16, 16), share) for share in (0.0, 0.3, 0.6, 1.0)])
    for steered, prompt in (
        (model, steer_conditioning(conditioning(1), concept, STRENGTH)),
        (apply_steering(model, concept, STRENGTH), None),
        (apply_steering(model, MAN, STRENGTH, mask=masks), None),
    ):
        found, wanted = (sample(m, prompt, batch=4, steps=3) for m in (windowed(steered), steered))
        torch.testing.assert_close(found, wanted, **BESIDE)


def test_an_anchor_before_a_window_counts_as_an_image():
    for given, found in (
        ({}, (3, 4)),
        ({"causal_anchor_index": None}, (3, 4)),
        ({"causal_anchor_index": 2}, (2, 3, 4)),
    ):
        window = SimpleNamespace(dim=0, index_list=[3, 4], **given)
        assert window_indices({"context_window": window}) == found
    assert window_indices({"context_window": SimpleNamespace(dim=0, index_list=[3, 4])}) == (3, 4)
    assert window_indices({"context_window": SimpleNamespace(dim=2, index_list=[0])}) is None
    assert window_indices({}) is None
