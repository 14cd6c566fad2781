"""A cancel in every phase of a discovery: what was found is kept, and the model is as if nothing had happened."""

import gc
import weakref
from dataclasses import replace

import comfy.model_management
import comfy.sample
import pytest
import torch
from hspace_steering.nodes.editor import NodeObserver

from helpers import conditioning, sample, tiny_model, weights_hash
from hspace.concepts import UnfinishedVector
from hspace.discovery import DiscoverySettings, PromptPairs, discover, preview, run
from hspace.discovery.image_judge import ImageJudge
from hspace.files import load_concept

FAST = {"steps": 4, "batch_size": 2, "sample_count": 2, "width": 128, "height": 128, "calibrate": False}


def cancel_when(monkeypatch, owner, name, calls=1):
    """Press cancel in the `calls`-th call of a function, before it does its work."""
    function, seen = getattr(owner, name), []

    def watched(*args, **kwargs):
        seen.append(None)
        if len(seen) == calls:
            comfy.model_management.interrupt_current_processing()
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)


PHASES = {
    # phase: where the cancel falls, settings, and the steps that are kept (None: nothing had been found yet)
    "sampling the images": ((comfy.sample, "sample_custom", 1), {"method": "paper"}, None),
    "first step": ((run.Run, "backward", 1), {}, (0, 1)),
    "middle": ((run.Run, "backward", 3), {}, (2, 3)),
    "preview": ((preview.Preview, "show", 2), {}, (1, 2, 3)),
    "measuring the length": ((ImageJudge, "losses", 2), {"calibrate": True}, (4,)),
    "measuring the range": ((ImageJudge, "losses", 2), {"measure_range": True}, (4,)),
}


@pytest.mark.parametrize("phase", PHASES)
def test_cancel(phase, monkeypatch, vector_folder):
    where, changes, kept = PHASES[phase]
    model = tiny_model()
    before, drawn = weights_hash(model), sample(model)
    options, patches = repr(model.model_options), dict(model.patches)
    forwards = [id(vars(layer).get("forward")) for layer in model.model.modules()]
    runs = []
    begun = run.Run.__post_init__
    settings = DiscoverySettings("test", **{**FAST, **changes})
    pairs = PromptPairs(conditioning(1), conditioning(2))
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "__post_init__", lambda self: (runs.append(weakref.ref(self)), begun(self))[1])
        cancel_when(patch, *where)
        observer = NodeObserver(model, 4, "test", 1, None)
        with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
            discover(model, pairs, settings, observer=observer)
    files = list(vector_folder.glob("partial/*.safetensors"))
    assert [load_concept(path).provenance.steps in kept for path in files] == ([True] if kept else [])
    assert weights_hash(model) == before
    assert repr(model.model_options) == options
    assert model.patches == patches
    assert [id(vars(layer).get("forward")) for layer in model.model.modules()] == forwards
    gc.collect()
    assert all(found() is None for found in runs), "the run is still held by something"
    assert torch.equal(sample(model), drawn)


@pytest.mark.parametrize("samples", [None, torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))])
def test_cancel_while_the_length_is_measured_goes_on_to_the_same_bits(samples, monkeypatch, vector_folder):
    changes = {"steps": 16, "batch_size": 4, "learning_rate": 3.0, "width": 64, "height": 64}
    settings, pairs = DiscoverySettings("test", **changes), PromptPairs(conditioning(1), conditioning(2))
    model = tiny_model()
    with torch.inference_mode():
        whole = discover(model, pairs, settings, samples).vector
        with monkeypatch.context() as patch:
            cancel_when(patch, ImageJudge, "losses", 2)
            observer = NodeObserver(model, 4, "test", 1, None)
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                discover(model, pairs, settings, samples, observer=observer)
        (path,) = vector_folder.glob("partial/*.safetensors")
        partial = load_concept(path)
        resumed = discover(model, pairs, settings, samples, partial)
    assert isinstance(partial, UnfinishedVector)
    assert not isinstance(resumed.vector, UnfinishedVector)
    assert resumed.vector.content == whole.content
    assert resumed.vector.provenance.scale == whole.provenance.scale != 1
    assert torch.isfinite(resumed.samples[0]).all()
    assert resumed.samples[0].std() > 0.1
    # With batches of another size its sampling runs cannot be gone on with, so it takes a step of new ones.
    with torch.inference_mode():
        again = discover(model, pairs, replace(settings, batch_size=3), samples, partial).vector
    assert again.provenance.steps == 16
    assert torch.equal(again.tensor, whole.tensor) == (samples is not None)


def test_a_picture_that_fails_does_not_take_the_finished_vector_with_it(monkeypatch, vector_folder, caplog):
    from hspace_steering.nodes import discover as node

    from helpers import run_node

    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(node, "loss_plot", broken)
    monkeypatch.setattr(NodeObserver, "picture", broken)
    prompts = {"concept": conditioning(1), "base": conditioning(2)}
    vector, plot, _, picture = run_node("HSpaceDiscoverConcept", model=tiny_model(), name="test", **prompts, **FAST)
    assert vector.provenance.steps == 4
    assert plot.shape[-1] == picture.shape[-1] == 3
    assert sum("could not be drawn" in record.message for record in caplog.records) == 2
