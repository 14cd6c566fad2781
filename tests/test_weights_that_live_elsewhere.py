"""Layers that compute with something else than their parameters: cached, streamed, dequantised, or split over GPUs.

Newer versions of ComfyUI keep weights so on graphics cards, and other packs bring kinds of their own. The first half of
this file does with ComfyUI's classes on a CPU what they do there; a vector discovered on such a model is the plain
model's, bit for bit.
"""

from __future__ import annotations

import comfy.ops
import pytest
import torch

from helpers import conditioning, random_vector, run_node, sample, tiny_model
from hspace.comfy_weights import layers_after_bottleneck
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.discovery.gradients import gradients_through
from hspace.steering import apply_steering

HALF, FULL = torch.float16, torch.float32
CPU = torch.device("cpu")


def found(model, **changes) -> dict[int, torch.Tensor]:
    settings = DiscoverySettings("test", **{"steps": 3, "batch_size": 2, "width": 128, "height": 128, **changes})
    with torch.inference_mode():
        return discover(model, PromptPairs(conditioning(1), conditioning(2)), settings).vector.tensors


def casting_layers(model) -> list[torch.nn.Module]:
    """All layers of a ModelPatcher's U-Net that know how to cast their weights."""
    return [x for x in model.model.diffusion_model.modules() if hasattr(x, "comfy_cast_weights")]


class Elsewhere:
    """What `comfy.ops.cast_bias_weight` does for a layer that has a place of its own, `_v`.

    Args:
        resident: true where there is room for the weights: they are cached on the layer by the first call. Otherwise
            all layers take turns with one buffer.
    """

    def __init__(self, monkeypatch, resident: bool):
        self.resident, self.buffer, self.calls = resident, torch.empty(1 << 20, dtype=torch.uint8), 0
        self.ordinary = comfy.ops.cast_bias_weight
        monkeypatch.setattr(comfy.ops, "cast_bias_weight", self)

    def __call__(self, layer, input=None, dtype=None, device=None, bias_dtype=None, offloadable=False, **others):
        if not hasattr(layer, "_v"):
            return self.ordinary(layer, input, dtype, device, bias_dtype, offloadable, **others)
        self.calls += 1
        dtype = input.dtype if dtype is None else dtype
        cached = getattr(layer, "_v_weight", None), getattr(layer, "_v_bias", None)
        weight, bias = self.fetch(layer) if cached[0] is None else cached
        if self.resident:
            layer._v_weight, layer._v_bias = weight, bias
        weight, bias = (t if t is None else t.to(dtype) for t in (weight, bias))
        return (weight, bias, None) if offloadable else (weight, bias)

    def fetch(self, layer) -> list[torch.Tensor | None]:
        """Weight and bias in the buffer that is next, each in the dtype that is noted on the parameter."""
        buffer = torch.empty(layer._v, dtype=torch.uint8) if self.resident else self.buffer
        views, start = [], 0
        for tensor in (layer.weight, layer.bias):
            if tensor is None:
                views.append(None)
                continue
            dtype = getattr(tensor, "_model_dtype", tensor.dtype)
            end = start + tensor.numel() * dtype.itemsize
            if end > (layer._v if self.resident else len(buffer)):
                raise ValueError("Buffer too small")
            # Another buffer's bytes, as in a stream that another run has written to: no version counter knows of it.
            view = buffer[start:end].view(dtype).view(tensor.shape)
            view.data.copy_(tensor)
            views.append(view)
            start = end
        return views

    def hold(self, model, dtype=None):
        """The same model, every layer's weights elsewhere, to be cast to `dtype` where it is given."""
        for layer in casting_layers(model):
            parameters = [t for t in (getattr(layer, "weight", None), getattr(layer, "bias", None)) if t is not None]
            if not parameters:
                continue
            for tensor in parameters:
                tensor._model_dtype = dtype or tensor.dtype
            layer._v = sum(t.numel() * t._model_dtype.itemsize for t in parameters)
            layer.comfy_cast_weights = True
        return model


@pytest.mark.parametrize("sites", ["bottleneck", "decoder"])
@pytest.mark.parametrize("sampled_before", [True, False], ids=["sampled before", "first run"])
@pytest.mark.parametrize("resident", [True, False], ids=["cached", "streamed"])
def test_cached_or_streamed_weights(monkeypatch, resident, sampled_before, sites):
    """Caches are filled in inference mode by a sampling run; a stream's buffer holds another layer's weights when the
    backward pass comes.
    """
    plain = found(tiny_model(), sites=sites)
    held, elsewhere = tiny_model(), Elsewhere(monkeypatch, resident)
    elsewhere.hold(held)
    if sampled_before:
        sample(held, steps=1)
    vector = found(held, sites=sites)
    assert elsewhere.calls
    assert all(torch.equal(vector[site], plain[site]) for site in plain)


def test_streamed_weights_with_gradient_checkpointing(monkeypatch):
    plain = found(tiny_model())
    vector = found(Elsewhere(monkeypatch, False).hold(tiny_model()), gradient_checkpointing=True)
    torch.testing.assert_close(vector[0], plain[0], rtol=1e-4, atol=1e-5)


def test_what_is_noted_on_a_parameter_stays_there(monkeypatch):
    """A float32 file that is run in half precision: the place for its weights has the size of the smaller dtype."""
    held = Elsewhere(monkeypatch, True).hold(tiny_model(), HALF)
    assert torch.isfinite(found(held)[0]).all()


def test_the_model_is_as_it_was(monkeypatch):
    """Caches, places and functions are put back after a run and after one that failed; images are the same bits."""
    held = Elsewhere(monkeypatch, True).hold(tiny_model())
    before = sample(held, steps=2)
    contents = [(dict(vars(layer)), dict(layer._parameters)) for layer in held.model.modules()]
    found(held)
    with pytest.raises(FloatingPointError):
        found(held, learning_rate=1e30, method="paper", sample_count=2)
    for layer, (content, parameters) in zip(held.model.modules(), contents, strict=True):
        assert all(vars(layer)[name] is value for name, value in content.items())
        assert vars(layer).keys() == content.keys()
        assert all(layer._parameters[name] is value for name, value in parameters.items())
    assert torch.equal(sample(held, steps=2), before)


def test_apply_on_streamed_weights(monkeypatch):
    steered = sample(apply_steering(tiny_model(), random_vector(), 2.0), steps=2)
    held = Elsewhere(monkeypatch, False).hold(tiny_model())
    assert torch.equal(sample(apply_steering(held, random_vector(), 2.0), steps=2), steered)
