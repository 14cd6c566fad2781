"""The bundled demo model: its files, stock nodes on it, and the figures of its card, sampled."""

import json

import pytest
import torch

from demo.captions import ARMED, PROFESSIONS, caption, majority_gender, random_person, vocabulary
from demo.classifier import load_classifier
from demo.generate import sample_and_judge, sample_images
from demo.loader import load_sampling_model
from helpers import ROOT

WEIGHTS = ROOT / "demo" / "weights"


def test_weights_are_small_and_half_precision():
    from safetensors import safe_open

    files = list(WEIGHTS.glob("*.safetensors"))
    assert {file.stem for file in files} == {"unet", "text_encoder", "vae", "classifier"}
    assert sum(file.stat().st_size for file in files) <= 32 * 2**20
    for file in files:
        with safe_open(file, "pt") as tensors:
            dtypes = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}
        assert dtypes <= {"F16", "I64"}


def test_every_word_of_the_captions_is_one_token(demo_model):
    tokenizer = demo_model[1].tokenizer.clip_emoji.tokenizer
    for word in vocabulary():
        assert len(tokenizer(word)["input_ids"]) == 3, word
    assert len(tokenizer("a quux")["input_ids"]) > 4


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "heun", "lcm", "uni_pc", "ddim"])
def test_stock_nodes(demo_model, sampler):
    import nodes

    model, clip, vae = demo_model
    with torch.inference_mode():
        (positive,) = nodes.CLIPTextEncode().encode(clip, "a (woman:1.2) firefighter, dark skin")
        (negative,) = nodes.CLIPTextEncode().encode(clip, "")
        (latent,) = nodes.EmptyLatentImage().generate(128, 128, 2)
        (drawn,) = nodes.KSampler().sample(model, 1, 6, 4.0, sampler, "normal", positive, negative, latent)
        (images,) = nodes.VAEDecode().decode(vae, drawn)
        assert images.shape == (2, 128, 128, 3)
        assert images.std() > 0.05
        (again,) = nodes.VAEEncode().encode(vae, images)
    assert again["samples"].shape == (2, 4, 16, 16)
    assert again["samples"].std() * 0.18215 == pytest.approx(1, abs=0.4)


def test_captions_are_biased_as_the_card_says():
    import random

    rng = random.Random(0)
    drawn = [random_person(rng)[:2] for _ in range(6000)]
    unnamed = [p for p, text in drawn if " man" not in text and " woman" not in text]
    majority = sum(p.gender == majority_gender(p.profession) for p in unnamed) / len(unnamed)
    assert majority == pytest.approx(0.85, abs=0.03)
    assert not any(
        word in text.split() for _, text in drawn for word in ("no", "without", "not") if "gesturing" not in text
    )
    silent = [p.weapon for p, text in drawn if "weapon" not in text and p.profession in ARMED]
    assert sum(silent) / len(silent) == pytest.approx(0.5, abs=0.06)
    assert not any(p.weapon for p, text in drawn if "weapon" not in text and p.profession not in ARMED)


FLOORS = {
    "full caption: gender": 0.95,
    "full caption: skin tone": 0.88,
    "full caption: profession": 0.90,
    "full caption, harmless profession: no weapon": 0.95,
    "weapon asked for: weapon": 0.90,
    "no gender named: majority gender": 0.80,
}


def test_the_model_is_good_enough_to_show_something():
    figures = json.loads((WEIGHTS / "evaluation.json").read_text())
    assert not {name: figures[name] for name, least in FLOORS.items() if figures[name] < least}
    assert figures["no gender named: majority gender"] <= 0.92


def test_the_card_tells_the_truth(demo_model):
    """A sample of 64 images agrees with the committed figures, which `make demo-model` measures on 512."""
    figures = json.loads((WEIGHTS / "evaluation.json").read_text())
    names = list(PROFESSIONS)
    people = [(names[(7 * i) % 64], i % 2, i % 5, i % 3) for i in range(64)]
    prompts = [caption(p, gender=g, skin_tone=t, style=s) for p, g, t, s in people]
    seen = sample_and_judge(load_classifier(), *demo_model, prompts, list(range(64)))
    for attribute, wanted in (
        ("gender", [g for _, g, _, _ in people]),
        ("skin tone", [t for _, _, t, _ in people]),
        ("profession", [names.index(p) for p, *_ in people]),
    ):
        share = (getattr(seen, attribute.replace(" ", "_")) == torch.tensor(wanted)).float().mean().item()
        assert share == pytest.approx(figures[f"full caption: {attribute}"], abs=0.15), attribute
        assert share > 2 / {"gender": 2.9, "skin tone": 5, "profession": 64}[attribute]


def test_images_depend_on_their_own_seed_only(demo_model):
    one = sample_images(*demo_model, [caption("judge")], [7], steps=3)
    many = sample_images(*demo_model, [caption("cook"), caption("judge")], [1, 7], steps=3)
    torch.testing.assert_close(one[0], many[1], rtol=0, atol=0.02)


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", torch.float32), ("AVX512", torch.bfloat16)])
def test_no_bfloat16_where_a_cpu_has_to_emulate_it(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model, _, vae = load_sampling_model()
    assert model.model.get_dtype() == vae.vae_dtype == dtype
