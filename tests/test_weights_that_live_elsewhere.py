"""Layers that compute with something else than their parameters: cached, streamed, dequantised, or split over GPUs.

Newer versions of ComfyUI keep weights so on graphics cards, and other packs bring kinds of their own. The first half of
this file does with ComfyUI's classes on a CPU what they do there; a vector discovered on such a model is the plain
model's, bit for bit.
"""

from __future__ import annotations

import json

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.utils
import pytest
import torch

from composition import builders
from helpers import conditioning, random_vector, sample, tiny_model
from hspace.discovery import DiscoverySettings, PromptPairs, discover
from hspace.steering import apply_steering

HALF, FULL = torch.float16, torch.float32
CPU = torch.device("cpu")
FAST = {"steps": 3, "batch_size": 2, "width": 128, "height": 128, "calibrate": False}


def found(model, **changes) -> dict[int, torch.Tensor]:
    settings = DiscoverySettings("test", **{**FAST, **changes})
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
    contents = [(dict(vars(layer)), dict(layer._parameters)) for layer in held.model.diffusion_model.modules()]
    found(held)
    with pytest.raises(FloatingPointError):
        found(held, learning_rate=1e30, method="paper", sample_count=2)
    for layer, (content, parameters) in zip(held.model.diffusion_model.modules(), contents, strict=True):
        assert all(vars(layer)[name] is value for name, value in content.items())
        assert vars(layer).keys() == content.keys()
        assert all(layer._parameters[name] is value for name, value in parameters.items())
    assert torch.equal(sample(held, steps=2), before)


def test_apply_on_streamed_weights(monkeypatch):
    steered = sample(apply_steering(tiny_model(), random_vector(), 2.0), steps=2)
    held = Elsewhere(monkeypatch, False).hold(tiny_model())
    assert torch.equal(sample(apply_steering(held, random_vector(), 2.0), steps=2), steered)


PREFIX = builders.PREFIX
EIGHT = torch.float8_e4m3fn


def half_plain_half_scaled() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A state dict whose linear layers hold what eight bits can express, and scale and eight-bit values of those."""
    weights = {key: t for key, t in builders.build("small").model.state_dict().items() if "model_sampling" not in key}
    weights = {"model." + key: t for key, t in weights.items()}
    scaled = {}
    for key, tensor in weights.items():
        if key.endswith((".to_q.weight", ".to_k.weight", ".to_out.0.weight", ".ff.net.2.weight")):
            scale = tensor.abs().max() / 448
            scaled[key] = (tensor / scale).to(EIGHT)
            scaled[key + "_scale"] = scale
            weights[key] = scaled[key].float() * scale
    return weights, scaled


def load(weights: dict[str, torch.Tensor], **attributes):
    """A ModelPatcher of a state dict in float32, its configuration with these attributes."""
    with torch.inference_mode():
        config = type(builders.detect("small"))(comfy.model_detection.detect_unet_config(weights, PREFIX))
        config.set_inference_dtype(torch.float32, None)
        for name, value in attributes.items():
            setattr(config, name, value)
        model = config.get_model(weights, PREFIX)
        model.load_model_weights(dict(weights), PREFIX)
        model.eval()
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def load_scaled(weights, scaled):
    """A model with scaled fp8 layers in the format that the installed ComfyUI reads."""
    layers = [key.removesuffix(".weight") for key in scaled if key.endswith(".weight")]
    weights = {**weights, **scaled}
    conf = {"format": "float8_e4m3fn"}
    if not hasattr(comfy.utils, "detect_layer_quantization"):
        return load(weights, layer_quant_config={layer.removeprefix(PREFIX): conf for layer in layers})
    mark = torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)
    weights |= {f"{layer}.comfy_quant": mark for layer in layers}
    return load(weights, quant_config=comfy.utils.detect_layer_quantization(weights, PREFIX))


def found_on(model) -> torch.Tensor:
    """As `found`, for the models of `composition.builders`."""
    settings = DiscoverySettings("test", **FAST)
    pairs = PromptPairs(builders.conditioning(model, 1), builders.conditioning(model, 2))
    with torch.inference_mode():
        return discover(model, pairs, settings).vector.tensor


@pytest.mark.parametrize("fast", [False, True], ids=["computed in float32", "computed in fp8"])
def test_scaled_fp8(monkeypatch, fast):
    """Weights of two parts, and layers that quantise their input too where the device computes in eight bits."""
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device=None: fast)
    weights, scaled = half_plain_half_scaled()
    model = load_scaled(weights, scaled)
    try:
        builders.sample(model, steps=1)
    except NotImplementedError:
        pytest.skip("this ComfyUI computes in fp8 on graphics cards only")
    wanted, vector = found_on(load(weights)), found_on(model)
    similarity = torch.cosine_similarity(vector.flatten(), wanted.flatten(), 0)
    assert similarity > (0.9 if fast else 0.9999)


class PackedTensor(torch.Tensor):
    """A tensor like those of GGUF files: no copies are made of it, and only its layer knows what it holds."""

    def clone(self, *args, **kwargs):
        return self

    def detach(self, *args, **kwargs):
        return self


class Unpacking:
    """A layer of packed tensors. Values that are stored in the dtype of the input are not even copied."""

    comfy_cast_weights = True

    def cast_bias_weight(self, input=None, dtype=None, device=None, bias_dtype=None):
        dtype = input.dtype if dtype is None else dtype
        return tuple(None if t is None else torch.Tensor(t.to(dtype)) for t in (self.weight, self.bias))

    def forward(self, input):
        return torch.nn.functional.linear(input, *self.cast_bias_weight(input))


def pack(model):
    """The linear layers of a ModelPatcher's model made into `Unpacking` ones."""
    for layer in casting_layers(model):
        if isinstance(layer, torch.nn.Linear):
            layer.__class__ = type("Packed", (Unpacking, type(layer)), {})
            with torch.inference_mode():
                for name, tensor in layer._parameters.items():
                    if tensor is not None:
                        packed = tensor.data.clone().as_subclass(PackedTensor)
                        layer._parameters[name] = torch.nn.Parameter(packed, requires_grad=False)
    return model


def test_packed_weights_in_the_dtype_that_is_computed_in():
    plain = builders.build("small", dtype=HALF, compute=HALF)
    assert torch.equal(found_on(pack(builders.build("small", dtype=HALF, compute=HALF))), found_on(plain))


def test_weights_without_a_storage_of_their_own():
    """mkldnn's, or DirectML's, where nobody may ask for the storage."""
    model = tiny_model()
    for layer in model.model.diffusion_model.output_blocks.modules():
        if isinstance(layer, torch.nn.Linear):
            layer._parameters["weight"] = torch.nn.Parameter(layer.weight.to_mkldnn(), requires_grad=False)
    assert all(torch.equal(t, found(tiny_model())[site]) for site, t in found(model).items())
    assert any(t.is_mkldnn for t in model.model.parameters())


class FourBits(torch.nn.Parameter):
    """A parameter like those of NF4 layers, with which only its own layer can compute."""


class FourBitLinear(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        with torch.inference_mode():
            self.weight, self.bias = FourBits(layer.weight.clone(), requires_grad=False), None

    def forward(self, input):
        return torch.nn.functional.linear(input, self.weight.as_subclass(torch.Tensor))


def test_weights_without_gradients_are_named():
    model = tiny_model()
    attention = next(m for m in model.model.diffusion_model.output_blocks.modules() if hasattr(m, "to_q"))
    attention.to_q = FourBitLinear(attention.to_q)
    sample(apply_steering(model, random_vector(), 2.0), steps=1)
    with pytest.raises(ValueError, match=r"model: its weights are of a kind \(FourBits\) that has no gradients"):
        found(model)
    assert type(attention.to_q.weight) is FourBits


def test_cfg_split_over_devices(monkeypatch):
    """ComfyUI computes such halves in threads of their own, without gradients."""
    model, batch, seen = tiny_model(), comfy.samplers.calc_cond_batch, []
    model.model_options["multigpu_clones"] = {torch.device("meta"): None}

    def calc_cond_batch(model, conds, x, timestep, options):
        seen.append("multigpu_clones" in options)
        return batch(model, conds, x, timestep, options)

    monkeypatch.setattr(comfy.samplers, "calc_cond_batch", calc_cond_batch)
    assert torch.equal(found(model)[0], found(tiny_model())[0])
    assert seen
    assert not any(seen)


def test_hooks_on_a_model_that_cannot_be_loaded_again(monkeypatch):
    """What a sampler of newer versions says where a hooked prompt meets a dynamic model of another pack's loader."""

    def set_conds(guider, positive, negative):
        raise RuntimeError("Cannot create non-dynamic delegate: cached_patcher_init is not initialized.")

    monkeypatch.setattr(comfy.samplers.CFGGuider, "set_conds", set_conds)
    with pytest.raises(ValueError, match=r"model: a prompt carries hooks.*Load Checkpoint"):
        found(tiny_model())
