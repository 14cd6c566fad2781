"""Weights of every precision, and compiled models."""

import shutil

import comfy.model_management as management
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_torch_compile as torch_compile
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from composition.builders import build, calls, chunks, conditioning, sample, vector_for
from helpers import random_vector, responsive_vector, tiny_model
from helpers import sample as sample_tiny
from hspace.bottleneck import find_bottleneck
from hspace.comfy_compat import differentiable_attention
from hspace.concepts import Choice, Response, Vector
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.steering import apply_steering, find_reading, probe_concepts

HALF, BRAIN, FULL, EIGHT = torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn
# (weights, what layers compute in)
PRECISIONS = [(HALF, HALF), (HALF, FULL), (BRAIN, BRAIN), (BRAIN, FULL), (EIGHT, HALF), (EIGHT, BRAIN), (EIGHT, FULL)]


@pytest.fixture(scope="module")
def model():
    return build("small")


def name_of(precision):
    return " in ".join(str(dtype).removeprefix("torch.") for dtype in precision)


@pytest.mark.parametrize("precision", PRECISIONS, ids=name_of)
def test_precisions(precision):
    """The sum is taken in h's precision, of a vector that was rounded once."""
    model = build("small", dtype=precision[0], compute=precision[1])
    v = vector_for(model)
    for strength in (0.3, 2.0):
        plain, changed = (calls(m, steps=1, batch=2)[0] for m in (model, apply_steering(model, v, strength)))
        assert plain["h"].dtype == changed["h"].dtype == precision[1]
        for (index, before), (_, after) in zip(chunks(plain), chunks(changed), strict=True):
            wanted = before + (strength * v.tensor).to(precision[1]) if index == 0 else before
            assert torch.equal(after, wanted)
    assert torch.isfinite(sample(apply_steering(model, v, 2.0), steps=3)).all()


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_responses_in_half_precision(dtype):
    """They round no worse than the model does."""
    exact, model = build("small"), build("small", dtype=dtype, compute=dtype)
    v = responsive_vector(exact, constants=0.3)

    def distance(*steps) -> float:
        rough, fine = (sample(step(m), steps=1) for step, m in zip(steps, (model, exact), strict=True))
        return ((rough - fine).norm() / fine.norm()).item()

    def steered(m):
        return apply_steering(m, v, 0.3)

    assert distance(steered, steered) < 3 * distance(lambda m: m, lambda m: m)
    wide = {site: Response(1e6 * response.up, response.down) for site, response in v.responses.items()}
    hostile = Vector(v.tensor, "wide", v.family, decoder=v.decoder, responses=wide)
    if dtype == HALF:
        with pytest.raises(ValueError, match=r"strength: .*more than torch\.float16 can hold"):
            sample(apply_steering(model, hostile, 1.0), steps=1)


@pytest.mark.parametrize("before", [True, False])
def test_model_compute_dtype(model, before):
    """The node that changes the precision of a loaded model, before and after Apply."""

    def node(m):
        return advanced.ModelComputeDtype().patch(m, "bf16")[0]

    v = vector_for(model)
    steered = node(apply_steering(model, v, 2.0)) if before else apply_steering(node(model), v, 2.0)
    plain, changed = calls(node(model), steps=1)[0], calls(steered, steps=1)[0]
    assert changed["h"].dtype == BRAIN
    assert torch.equal(dict(chunks(changed))[0], dict(chunks(plain))[0] + (2.0 * v.tensor).bfloat16())


def test_partial_loading(monkeypatch):
    """What --novram and --lowvram do: weights stay where they are stored, and each layer fetches its own, LoRA
    included.
    """
    settings = DiscoverySettings("test", steps=3, batch_size=2, sample_count=2, width=128, height=128)

    def results():
        model = build("small")
        key = "diffusion_model.middle_block.2.out_layers.3.weight"
        weight = model.model.state_dict()[key]
        model.add_patches({key: ("diff", (0.1 * torch.ones_like(weight),))})
        steered = apply_steering(model, vector_for(model), 2.0)
        drawn = sample(steered)
        with torch.inference_mode():
            found = discover(model, PromptPairs(conditioning(model, 1), conditioning(model, 2)), settings)
        return drawn, found.vector.tensor, steered.model.lowvram_patch_counter

    drawn, vector, patched = results()
    assert not patched
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
    partial_drawn, partial_vector, patched = results()
    assert patched, "nothing was loaded partially"
    torch.testing.assert_close(partial_drawn, drawn, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(partial_vector, vector, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def tiny():
    """The smallest model, since tracing takes seconds; with PyTorch's attention, since ComfyUI's default on CPUs asks
    for the free memory, which breaks graphs all over the U-Net with and without steering.
    """
    model = tiny_model()
    model.model_options["transformer_options"]["optimized_attention_override"] = differentiable_attention
    sample_tiny(compiled(model, "eager"), steps=2)  # the first compilation in a process is done twice
    return model


def decoder_vector(model):
    widths = [channels for channels, _ in find_bottleneck(model).decoder]
    decoder = {site: torch.randn(width, 1, 1) for site, width in enumerate(widths) if site}
    return Vector(torch.randn(widths[0], 1, 1), "decoder", "TinyModel", decoder=decoder)


def compiled(model, backend):
    torch._dynamo.reset()
    counters.clear()
    return torch_compile.TorchCompileModel.execute(model, backend)[0]


# name: how a model is steered
STEERINGS = {
    "plain": lambda m, v, w: apply_steering(m, v, 2.0),
    "window": lambda m, v, w: apply_steering(m, v, 2.0, 0.2, 0.6),
    "curve": lambda m, v, w: apply_steering(m, v, 2.0, 0.1, 0.9, curve=[1.0, 0.2, 0.7]),
    "both": lambda m, v, w: apply_steering(m, v, 2.0, half="both"),
    "mask": lambda m, v, w: apply_steering(m, v, 2.0, mask=torch.rand(1, 64, 64)),
    "each its own": lambda m, v, w: apply_steering(m, Choice((v, w), (1, 1)), 2.0, 0.0, 0.7),
    "every site": lambda m, v, w: apply_steering(m, Choice((decoder_vector(m), w), (1, 1)), 2.0, 0.2, 0.6),
    "response": lambda m, v, w: apply_steering(m, Choice((responsive_vector(m), w), (1, 1)), 0.5, 0.2, 0.6),
    "response and mask": lambda m, v, w: apply_steering(m, responsive_vector(m), 0.5, mask=torch.rand(1, 64, 64)),
    "two nodes": lambda m, v, w: apply_steering(apply_steering(m, v, 2.0, 0.1, 0.7), w, -1.0),
}


@pytest.mark.parametrize("name", STEERINGS)
def test_compiled(tiny, name):
    """No graph break at the patch, no recompile from step to step or from run to run, and the same bits."""
    torch.manual_seed(0)
    steered = STEERINGS[name](tiny, random_vector(name="v"), random_vector(name="w", seed=1))
    graphs = CompileCounterWithBackend("eager")
    patched = compiled(steered, graphs)
    for steps in (1, 6, 6):
        assert torch.equal(sample_tiny(patched, steps=steps, batch=2), sample_tiny(steered, steps=steps, batch=2))
    assert graphs.frame_count == 1
    assert not counters["graph_break"]


def test_compiled_once_and_steered_or_not(tiny):
    """One compiled model, sampled plain, with one vector, with another, and plain again."""
    patched = compiled(tiny, "eager")
    first, second = (random_vector(name=str(seed), seed=seed) for seed in (0, 1))
    answering = responsive_vector(tiny)
    for change in (
        lambda m: m,
        lambda m: apply_steering(m, first, 2.0),
        lambda m: apply_steering(m, second, 2.0, 0.2, 0.6),
        lambda m: apply_steering(m, answering, 0.5, 0.2, 0.6),
        lambda m: m,
    ):
        assert torch.equal(sample_tiny(change(patched), steps=2), sample_tiny(change(tiny), steps=2))


def test_compiled_and_probed(tiny):
    """No graph break, the same bits, and no recompile but those for the probe's own evaluations, in the first run."""
    probed, probe = probe_concepts(tiny, [random_vector(name="v")], 0.0, 1.0)
    graphs = CompileCounterWithBackend("eager")
    patched = compiled(probed, graphs)
    wanted = sample_tiny(probed, steps=2, batch=2)
    reading = find_reading(probe.content, wanted)
    for _ in range(2):
        found = sample_tiny(patched, steps=2, batch=2)
        assert torch.equal(found, wanted)
        assert torch.equal(find_reading(probe.content, found).scores, reading.scores)
        assert graphs.frame_count == 2
    assert not counters["graph_break"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor(tiny):
    """The backend that TorchCompileModel offers; its kernels round differently from eager ones."""
    steered = apply_steering(tiny, random_vector(), 2.0, 0.2, 0.6)
    patched = compiled(steered, "inductor")
    found = sample_tiny(patched, steps=3)
    assert sum(counters["frames"].values()) == 2  # one, total and ok
    assert not counters["graph_break"]
    torch.testing.assert_close(found, sample_tiny(steered, steps=3), rtol=1e-3, atol=1e-3)
