"""Concept Balance: verdicts against `transformers`' own CLIP with the same weights, and the counting."""

import json

import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import pytest
import torch
import transformers
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer
from hspace_steering.nodes.balance import ConceptBalance

from hspace.viewing import balance as module
from hspace.viewing.balance import (
    Balance,
    chance_deviation,
    deviation_ratio,
    encode_labels,
    measure_balance,
    parse_labels,
)
from hspace.viewing.plots import balance_chart

WIDTH = 32
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "hidden_act": "quick_gelu",
}
VISION = {**TEXT, "hidden_size": 48, "image_size": 28, "patch_size": 7, "num_channels": 3, "projection_dim": WIDTH}
LABELS = ("a photo of a man", "a photo of a woman", "a photo of a child")


def text_encoder(tokenizer=comfy.sd1_clip.SD1Tokenizer, model=comfy.sd1_clip.SD1ClipModel, widths=(WIDTH, WIDTH)):
    """ComfyUI's CLIP of SD 1.x at small width with random weights; `widths` are those of CLIP-L and the other one."""
    small = {f"clip_{key}_model_config": {**TEXT, "hidden_size": widths[key != "l"]} for key in "lhg"}
    clip = comfy.sd.CLIP(ClipTarget(tokenizer, model), model_options={**small, "dtype": torch.float32})
    return _random_weights(clip.cond_stage_model) and clip


def vision_encoder(folder, **changes):
    """ComfyUI's CLIP vision at small width with random weights."""
    path = folder / "vision.json"
    config = {**VISION, "model_type": "clip_vision_model", **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value}))
    encoder = comfy.clip_vision.ClipVisionModel(path)
    return _random_weights(encoder.model.float()) and encoder


def _random_weights(model):
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.fill_(float(name.endswith("weight")))
        else:
            weight.data.normal_(0, weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.02, generator=generator)
    return model


@pytest.fixture
def clip():
    return text_encoder()


@pytest.fixture
def vision(tmp_path):
    return vision_encoder(tmp_path)


@pytest.fixture
def images():
    """Twenty images of random colour patches; finer patterns would all look the same to the tower."""
    generator = torch.Generator().manual_seed(5)
    return torch.nn.functional.interpolate(torch.rand(20, 3, 3, 3, generator=generator), size=(40, 56)).movedim(1, -1)


def test_same_probabilities_as_transformers(clip, vision, images):
    text = {**TEXT, "vocab_size": 49408, "projection_dim": WIDTH, "eos_token_id": 49407}
    reference = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH)
    ).eval()
    weights = {**clip.cond_stage_model.clip_l.transformer.state_dict(), **vision.get_sd()}
    weights["logit_scale"] = torch.tensor(100.0).log()
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith("position_ids") for key in missing)
    tokens = transformers.CLIPTokenizer.from_pretrained(
        f"{comfy.sd1_clip.__file__.removesuffix('sd1_clip.py')}sd1_tokenizer"
    )(list(LABELS), return_tensors="pt", padding="max_length", max_length=77)
    pixels = comfy.clip_vision.clip_preprocess(images, size=28)
    with torch.no_grad():
        expected = reference(tokens.input_ids, pixels, attention_mask=None).logits_per_image.softmax(-1)

    balance = measure_balance(images, clip, vision, LABELS)
    torch.testing.assert_close(balance.probabilities, expected, atol=1e-4, rtol=0)
    # The comparison says something: images differ in their verdicts, and most probabilities are not all but 1.
    assert min(balance.counts[:2]) > 0
    assert (balance.probabilities.amax(-1) < 0.98).float().mean() > 0.5


def test_images_go_through_in_chunks_and_order(clip, vision, images, monkeypatch):
    sizes = []
    encode = vision.encode_image
    monkeypatch.setattr(vision, "encode_image", lambda chunk: sizes.append(len(chunk)) or encode(chunk))
    batch = torch.cat([images, images[:15]])
    cosines = measure_balance(batch, clip, vision, LABELS).cosines
    assert sizes == [16, 16, 3]
    single = [measure_balance(image[None], clip, vision, LABELS).cosines for image in (batch[0], batch[17], batch[34])]
    torch.testing.assert_close(cosines[[0, 17, 34]], torch.cat(single), atol=1e-5, rtol=0)
    torch.testing.assert_close(cosines[20:], cosines[:15], atol=1e-5, rtol=0)


def test_a_broken_image_spoils_no_other(clip, vision, images):
    whole = measure_balance(images, clip, vision, LABELS)
    images[3] = torch.nan
    broken = measure_balance(images, clip, vision, LABELS)
    assert broken.verdicts[3] is None
    assert [v for i, v in enumerate(broken.verdicts) if i != 3] == [v for i, v in enumerate(whole.verdicts) if i != 3]
    assert sum(broken.counts) == sum(whole.counts) - (whole.verdicts[3] is not None)


@pytest.mark.parametrize(
    ("counts", "deviation"),
    [([5, 5], 0), ([10, 0], 1), ([0, 3, 0], 1), ([4, 4, 4], 0), ([3, 1], 0.5), ([2, 1, 1], 0.25), ([0, 1, 1], 0.5)],
)
def test_deviation_of_known_shares(counts, deviation):
    assert deviation_ratio(counts) == pytest.approx(deviation)
    assert known(counts).deviation == pytest.approx(deviation)


def known(counts, close=0, broken=0, base=0.2) -> Balance:
    """A balance of known verdicts, `close` ties and `broken` images last."""
    labels = tuple(f"label {index}" for index in range(len(counts)))
    clear = base + 0.05 * torch.eye(len(labels)).repeat_interleave(torch.tensor(counts), 0)
    tie = torch.full((close, len(labels)), base)
    return Balance(labels, torch.cat([clear, tie, torch.full((broken, len(labels)), torch.nan)]))


def test_unjudged_images_count_for_no_label():
    balance = known([3, 1], close=2, broken=1)
    assert balance.verdicts == [0, 0, 0, 1, None, None, None]
    assert (balance.counts, balance.deviation) == ([3, 1], 0.5)
    report = balance.report()
    assert "4 of 7 images judged" in report
    assert "2 too close to call" in report
    assert "1 not finite" in report
    assert "5: not judged, too close to call" in report
    assert "6: not judged, not finite" in report
    assert "not judged" not in known([3, 1]).report()


def test_the_margin():
    # probabilities p and 1 - p differ by MARGIN where the logits differ by log(p / (1 - p))
    edge = torch.logit(torch.tensor((1 + module.MARGIN) / 2)).item() / module.LOGIT_SCALE
    cosines = 0.2 + torch.tensor([[0.99 * edge, 0.0], [1.01 * edge, 0.0]])
    assert Balance(("a", "b"), cosines).verdicts == [None, 0]


def test_none_judged_is_an_error():
    with pytest.raises(ValueError, match=r"images: none of the 5 .* 3 too close to call .* 2 not finite"):
        known([0, 0], close=3, broken=2)


def test_long_reports_are_cut():
    report = known([50, 20]).report()
    assert "63: label 1" in report
    assert "64:" not in report
    assert report.endswith("... and 6 more")


def test_low_similarity_is_warned_of():
    assert known([3, 1], base=-0.02).report().startswith("WARNING")
    assert not known([3, 1]).warning


def test_chance():
    assert chance_deviation(2, 1) == 1
    # Of 100 fair coins, 40 to 60 heads come up in 96 of 100 batches, and 41 to 59 in 94.
    assert chance_deviation(2, 100) == pytest.approx(0.2)
    assert chance_deviation(2, 10000) < 0.03


def test_labels():
    assert parse_labels("  a man \n\n a woman\nA  MAN\n") == ("a man", "a woman")


@pytest.mark.parametrize("text", ["", "\n \n", "a man", "a man\n\nA Man"])
def test_too_few_labels(text):
    with pytest.raises(ValueError, match=r"labels: two or more"):
        parse_labels(text)


def test_too_long_a_label(clip, vision, images):
    with pytest.raises(ValueError, match=r"labels: 'very .* is longer"):
        measure_balance(images, clip, vision, ("a man", "very " * 80))


def test_brackets_are_text(clip):
    texts = encode_labels(clip, ("a photo", "(a photo)"), WIDTH)
    assert not torch.allclose(texts[0], texts[1])


def test_prompts_encode_as_before(clip, vision, images):
    before = clip.encode_from_tokens(clip.tokenize("a man"), return_pooled=True)
    measure_balance(images, clip, vision, LABELS)
    after = clip.encode_from_tokens(clip.tokenize("a man"), return_pooled=True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def spoil(kind: str):
    weight = torch.randn(WIDTH, WIDTH)
    if kind == "identity":
        return torch.eye(WIDTH)
    if kind == "zeros":
        return torch.zeros(WIDTH, WIDTH)
    weight[3] = 0 if kind == "partly zeros" else torch.nan
    return weight


@pytest.mark.parametrize("kind", ["identity", "zeros", "partly zeros", "not finite"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_missing_text_projection_is_refused(clip, vision, images, kind, dtype):
    projection = clip.cond_stage_model.clip_l.transformer.text_projection
    projection.weight.data = spoil(kind).to(dtype)
    with pytest.raises(ValueError, match=r"clip: .* no text projection .*openai/clip-vit-large-patch14"):
        measure_balance(images, clip, vision, LABELS)


def test_other_widths_are_refused(clip, tmp_path, images):
    vision = vision_encoder(tmp_path, projection_dim=24)
    with pytest.raises(ValueError, match=r"clip: .* projects to 32 values, but clip_vision to 24"):
        measure_balance(images, clip, vision, LABELS)


def test_vision_without_a_projection_is_refused(clip, tmp_path, images):
    vision = vision_encoder(tmp_path, model_type="siglip_vision_model", projection_dim=None)
    with pytest.raises(ValueError, match=r"clip_vision: .*SigLIP"):
        measure_balance(images, clip, vision, LABELS)


def test_an_encoder_that_is_no_clip_is_refused(demo_model, vision, images):
    with pytest.raises(ValueError, match="clip: EmojiClipModel holds no CLIP text encoder"):
        measure_balance(images, demo_model[1], vision, LABELS)


@pytest.mark.parametrize(
    ("tokenizer", "model", "widths", "tower"),
    [
        (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel, (WIDTH, 64), "clip_l"),
        (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel, (64, WIDTH), "clip_g"),
        (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLRefinerClipModel, (64, WIDTH), "clip_g"),
        (SD2Tokenizer, SD2ClipModel, (64, WIDTH), "clip_h"),
    ],
)
def test_the_text_encoder_that_fits_is_used(vision, images, tokenizer, model, widths, tower):
    clip = text_encoder(tokenizer, model, widths)
    expected = measure_balance(images, clip, vision, LABELS).cosines
    for name in {"clip_l", "clip_g", "clip_h"} - {tower}:
        if hasattr(clip.cond_stage_model, name):
            getattr(clip.cond_stage_model, name).transformer.text_projection.weight.data.fill_(torch.nan)
    assert torch.equal(measure_balance(images, clip, vision, LABELS).cosines, expected)
    getattr(clip.cond_stage_model, tower).transformer.text_projection.weight.data.neg_()
    torch.testing.assert_close(measure_balance(images, clip, vision, LABELS).cosines, -expected)


@pytest.mark.parametrize(
    "balance",
    [
        known([3, 1], close=1),
        known([0, 7]),
        known([1] * 40),
        known([1, 2], base=-0.1),
        Balance(("$x_{ $", "b c " * 60), known([1, 2]).cosines),
    ],
)
def test_chart(balance):
    image = balance_chart(balance)
    assert image.shape == (1, 512, 768, 3)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < 0.5 < image.max() <= 1
    assert image.std() > 0.1


def test_node(clip, vision, images):
    with torch.inference_mode():
        output = ConceptBalance.PREPARE_CLASS_CLONE({}).execute(images, clip, vision, "\n".join(LABELS))
    report, chart, deviation = output.result
    assert "of 20 images judged" in report
    assert f"deviation: {deviation:.2f}" in report
    assert isinstance(deviation, float)
    assert chart.shape == (1, 512, 768, 3)
    assert output.ui == {"text": [report]}
