"""Every U-Net that ComfyUI has is steered at the right place; every model that has no such place says so."""

import comfy.model_patcher
import comfy.supported_models
import pytest
import torch

from composition.builders import ARCHITECTURES, CPU, build, calls, chunks, conditioning, detect, sample, vector_for
from helpers import FLUX, run_node, tiny_model
from hspace.bottleneck import base_model, find_bottleneck
from hspace.concepts import Sweep, Vector, resize_vector
from hspace.steering import apply_steering

# name: ComfyUI's configuration class, family, h channels at full size, latent pixels per h pixel, prediction
MODELS = {
    "SD 1.5": ("SD15", "SD1", 1280, 8, "epsilon"),
    "SD 1.5 inpainting": ("SD15", "SD1", 1280, 8, "epsilon"),
    "instruct-pix2pix": ("SD15_instructpix2pix", "SD1", 1280, 8, "epsilon"),
    "SD 2.1 v": ("SD20", "SD2", 1280, 8, "v_prediction"),
    "SDXL": ("SDXL", "SDXL", 1280, 4, "epsilon"),
    "SDXL refiner": ("SDXLRefiner", "SDXL-refiner", 1536, 8, "epsilon"),
    "SSD-1B": ("SSD1B", "SSD-1B", 1280, 4, "epsilon"),
    "Segmind Vega": ("Segmind_Vega", "Segmind-Vega", 1280, 4, "epsilon"),
    "KOALA 700M": ("KOALA_700M", "KOALA-700M", 1280, 4, "epsilon"),
    "KOALA 1B": ("KOALA_1B", "KOALA-1B", 1280, 4, "epsilon"),
    "SDXS": ("SD15", "SDXS", 1280, 4, "epsilon"),
    "small": ("SD15", "SD15", 1280, 4, "epsilon"),
    "SVD": ("SVD_img2vid", "SVD_img2vid", 1280, 8, "v_prediction"),
}


def test_the_table_is_complete():
    assert set(MODELS) == set(ARCHITECTURES)


@pytest.fixture(scope="module", params=MODELS)
def named_model(request):
    return request.param, build(request.param)


@pytest.mark.parametrize("name", MODELS)
def test_full_size_detection(name):
    """ComfyUI's detection from the full-size state dict, and where we find h-space in what it makes of it."""
    config_class, family, channels, downscale, _ = MODELS[name]
    config = detect(name)
    assert type(config).__name__ == config_class
    model = config.get_model({}, device="meta")
    model.diffusion_model.out.to_empty(device="cpu")
    site = find_bottleneck(comfy.model_patcher.ModelPatcher(model, CPU, CPU))
    assert (site.family, *site.decoder[0]) == (family, channels, downscale)


def test_nothing_is_asked_that_a_configuration_lacks(monkeypatch):
    """Newer configurations answer with None, and with a warning in the log."""
    asked = []
    model = tiny_model()
    monkeypatch.setattr(
        type(model.model.model_config), "__getattr__", lambda self, name: asked.append(name), raising=False
    )
    assert find_bottleneck(model).native_size == 0
    assert not asked


def test_exactly_h_plus_strength_times_v(named_model):
    name, model = named_model
    config_class, family, _, downscale, prediction = MODELS[name]
    site, width = find_bottleneck(model), ARCHITECTURES[name][1]
    assert type(model.model.model_config).__name__ == config_class
    assert (site.family, *site.decoder[0]) == (family, 4 * width, downscale)
    assert site.prediction_type == prediction
    v = vector_for(model)
    for size in ((32, 32), (16, 40)):  # a map of the right size or not: resized
        plain = calls(model, size=size, steps=1)[0]
        changed = calls(apply_steering(model, v, 2.5), size=size, steps=1)[0]
        for (index, before), (_, after) in zip(chunks(plain), chunks(changed), strict=True):
            assert after.shape[2:] == site.map_size(*size)
            wanted = before + 2.5 * resize_vector(v.tensor, before.shape[2:]) if index == 0 else before
            torch.testing.assert_close(after, wanted, rtol=0, atol=0 if size == (32, 32) else 1e-5)


def test_it_matters_and_leaves_the_model_alone(named_model):
    _, model = named_model
    before = sample(model, steps=2)
    assert torch.isfinite(before).all()
    steered = apply_steering(model, vector_for(model), 5.0)
    assert not torch.equal(sample(steered), before)
    assert torch.equal(sample(model), before)


def test_other_family_and_width_are_refused(named_model):
    _, model = named_model
    site = find_bottleneck(model)
    for wrong in (
        Vector(torch.zeros(site.channels, 1, 1), "smile", "Other"),
        Vector(torch.zeros(7, 1, 1), "smile", site.family),
    ):
        found_on, of_model = f"{wrong.family} with {wrong.tensor.shape[0]}", f"{site.family} with {site.channels}"
        words = f"concept: 'smile' was found on {found_on} .*{of_model}"
        with pytest.raises(ValueError, match=words):
            run_node("HSpaceApplySteering", model=model, concept=wrong)


def test_video_is_steered_per_frame():
    model = build("SVD")
    v = vector_for(model, size=(2, 2))
    options = {"batch": 5, "steps": 1}
    plain = calls(model, **options)[0]
    changed = calls(apply_steering(model, Sweep(v, 0.0, 1.0), 2.0), **options)[0]
    for (index, before), (_, after) in zip(chunks(plain), chunks(changed), strict=True):
        for frame in range(5):
            wanted = before[frame] + (0.5 * frame * v.tensor if index == 0 else 0)
            torch.testing.assert_close(after[frame], wanted, rtol=1e-6, atol=1e-6)


def test_inpainting_image_and_mask():
    model = build("SD 1.5 inpainting")
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    values = {"concat_latent_image": torch.randn(1, 4, 16, 16), "concat_mask": mask}
    options = {"positive": conditioning(model, 1, **values), "negative": conditioning(model, 2, **values), "steps": 1}
    v = vector_for(model, size=(2, 2))
    plain, changed = calls(model, **options)[0], calls(apply_steering(model, v, 1.0), **options)[0]
    assert torch.equal(dict(chunks(changed))[0], dict(chunks(plain))[0] + v.tensor)
    assert not torch.equal(dict(chunks(plain))[0], dict(chunks(calls(model, steps=1)[0]))[0])


@pytest.mark.parametrize(
    ("name", "method"),
    [("SD 1.5 inpainting", "distilled"), ("SD 2.1 v", "paper"), ("KOALA 700M", "distilled"), ("SVD", "distilled")],
)
def test_discovered_vectors_fit(name, method):
    """Discover finds its way through the conditionings of every kind of U-Net, and Apply takes what it found."""
    model = build(name)
    concept, *_ = run_node(
        "HSpaceDiscoverConcept",
        model=model,
        concept=conditioning(model, 1),
        base=conditioning(model, 2),
        method=method,
        steps=2,
        batch_size=2,
        sample_count=2,
        width=64,
        height=64,
        calibrate=False,
    )
    assert concept.tensor.abs().max() > 0
    assert concept.tensor.shape[0] == find_bottleneck(model).channels
    assert not torch.equal(sample(run_node("HSpaceApplySteering", model=model, concept=concept)[0]), sample(model))


# Architectures that differ from those above in their inputs only: state dict changes, configuration class, family.
VARIANTS = {
    "SDXL inpainting": ("SDXL", {"in_channels": 9}, "SDXL", "SDXL"),
    "SDXL instruct-pix2pix": ("SDXL", {"in_channels": 8}, "SDXL_instructpix2pix", "SDXL"),
    "SD 2.0 inpainting": ("SD 2.1 v", {"in_channels": 9}, "SD20", "SD2"),
    "SD 2.0 depth": ("SD 2.1 v", {"in_channels": 5}, "SD20", "SD2"),
    "SD 2.1 unCLIP l": ("SD 2.1 v", {"adm_in_channels": 1536}, "SD21UnclipL", "SD2"),
    "SD 2.1 unCLIP h": ("SD 2.1 v", {"adm_in_channels": 2048}, "SD21UnclipH", "SD2"),
    "SV3D u": ("SVD", {"adm_in_channels": 256}, "SV3D_u", "SV3D_u"),
    "SV3D p": ("SVD", {"adm_in_channels": 1280}, "SV3D_p", "SV3D_p"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_detected(name):
    base, changes, config_class, family = VARIANTS[name]
    config = detect(base, **changes)
    assert type(config).__name__ == config_class
    model = config.get_model({}, device="meta")
    model.diffusion_model.out.to_empty(device="cpu")
    assert find_bottleneck(comfy.model_patcher.ModelPatcher(model, CPU, CPU)).family == family


def test_fingerprint_does_not_depend_on_what_is_loaded():
    """A merge that is loaded has its weights in the modules that the unmerged model shares."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    model, other = build("small"), build("small", seed=1)
    before = base_model(model)
    (merged,) = ModelMergeSimple().merge(model, other, 0.5)
    sample(merged, steps=1)
    assert base_model(model) == base_model(merged) == before != base_model(other)


SAMPLING_NODES = {
    "zero-SNR v-prediction": ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}, "v_prediction"),
    "LCM": ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}, "epsilon"),
    "x0": ("ModelSamplingDiscrete", {"sampling": "x0", "zsnr": False}, "x0"),
    "EDM": ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 80.0, "sigma_min": 0.002}, "edm"),
    "V": (
        "ModelSamplingContinuousV",
        {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03},
        "v_prediction",
    ),
}


@pytest.fixture(scope="module")
def sd1():
    return build("SD 1.5")


@pytest.mark.parametrize("before", [True, False], ids=["node first", "Apply first"])
@pytest.mark.parametrize("name", SAMPLING_NODES)
def test_model_sampling_nodes(sd1, name, before):
    """The window is in the schedule of the model that samples, on whichever side the node is."""
    import comfy_extras.nodes_model_advanced as nodes

    node, inputs, prediction = SAMPLING_NODES[name]
    v, window = vector_for(sd1, size=(2, 2)), (0.1, 0.6)

    def patch(model):
        return getattr(nodes, node)().patch(model, **inputs)[0]

    plain = patch(sd1)
    assert find_bottleneck(plain).prediction_type == prediction
    steered = apply_steering(plain, v, 1.0, *window) if before else patch(apply_steering(sd1, v, 1.0, *window))
    sampling = plain.get_model_object("model_sampling")
    first, last = (sampling.percent_to_sigma(percent) for percent in window)
    seen, options = set(), {"steps": 8, "sampler": "lcm" if name == "LCM" else "euler", "scheduler": "sgm_uniform"}
    for record, bare in zip(calls(steered, **options), calls(plain, **options), strict=True):
        assert record["sigma"] == bare["sigma"]
        inside = last <= record["sigma"] <= first
        if inside and True not in seen:  # up to here both runs are the same
            assert torch.equal(dict(chunks(record))[0], dict(chunks(bare))[0] + v.tensor)
        if not inside and not seen:
            assert torch.equal(record["h"], bare["h"])
        seen.add(inside)
    assert seen == {True, False}


def test_zero_snr_checkpoint():
    """SDXL checkpoints say v-prediction and zero SNR with keys of their own."""
    model = build("Segmind Vega", extra=("v_pred", "ztsnr"))
    assert find_bottleneck(model).prediction_type == "v_prediction"
    v = vector_for(model)
    plain, changed = calls(model, steps=1)[0], calls(apply_steering(model, v, 1.0), steps=1)[0]
    assert plain["sigma"] > 1000
    assert torch.equal(dict(chunks(changed))[0], dict(chunks(plain))[0] + v.tensor)


_MMDIT = {
    "in_channels": 16,
    "pos_embed_scaling_factor": None,
    "depth": 1,
    "adm_in_channels": 16,
    "pos_embed_max_size": 8,
    "num_patches": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 64}},
}
# ComfyUI's configuration class: (its arguments, the classes that the message names)
WITHOUT_H_SPACE = {
    "Flux": (FLUX, r"Flux \(Flux\)"),
    "FluxSchnell": (FLUX, r"Flux \(Flux\)"),
    "SD3": (_MMDIT, r"SD3 \(OpenAISignatureMMDITWrapper\)"),
    "AuraFlow": ({"cond_seq_dim": 2048, "n_layers": 1, "n_double_layers": 1}, r"AuraFlow \(MMDiT\)"),
    "PixArtAlpha": ({"image_model": "pixart_alpha", "depth": 1}, r"PixArt \(PixArtMS\)"),
    "PixArtSigma": ({"image_model": "pixart_sigma", "depth": 1, "micro_condition": False}, r"PixArt \(PixArtMS\)"),
    "HunyuanDiT": ({"image_model": "hydit", "depth": 4}, r"HunyuanDiT \(HunYuanDiT\)"),
    "Stable_Cascade_C": (
        {"stable_cascade_stage": "c", "c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]]},
        r"StableCascade_C \(StageC\)",
    ),
    "WAN21_T2V": ({"image_model": "wan2.1", "model_type": "t2v", "num_layers": 1}, r"WAN21 \(WanModel\)"),
    "LTXV": ({"image_model": "ltxv", "num_layers": 1}, r"LTXV \(LTXVModel\)"),
    "Lumina2": (
        {"image_model": "lumina2", "n_layers": 1, "dim": 96 * 24, "n_heads": 24, "axes_dims": [32, 32, 32]},
        r"Lumina2 \(NextDiT\)",
    ),
    "QwenImage": ({"image_model": "qwen_image", "num_layers": 1}, r"QwenImage \(QwenImageTransformer2DModel\)"),
}


@pytest.mark.parametrize("name", WITHOUT_H_SPACE)
def test_models_without_h_space_are_refused(name):
    arguments, words = WITHOUT_H_SPACE[name]
    config = getattr(comfy.supported_models, name)(arguments)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_patcher.ModelPatcher(config.get_model({}, device="meta"), CPU, CPU)
    words = f"model: {words} has no U-Net bottleneck.*Supported are SD 1.x"
    v = Vector(torch.zeros(8, 1, 1), "smile", "SD1")
    prompt = [[torch.zeros(1, 7, 16), {}]]
    with pytest.raises(ValueError, match=words):
        run_node("HSpaceApplySteering", model=model, concept=v)
    with pytest.raises(ValueError, match=words):
        run_node("HSpaceDiscoverConcept", model=model, concept=prompt, base=prompt)
