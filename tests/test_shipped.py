"""Vectors that ship with the pack do what they say. Workflows are run in test_same_bits.py."""

import pytest
import torch

from demo.captions import GENDERS, caption
from demo.classifier import classify, load_classifier
from demo.generate import sample_images
from helpers import ROOT, run_node
from hspace.files import load_concept

VECTORS = sorted((ROOT / "vectors").glob("*.safetensors"))


@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_vector_fits_the_demo_model_and_says_how_it_was_found(demo_model, file):
    direction = load_concept(file)
    steered, _ = run_node("HSpaceApplySteering", model=demo_model[0], concept=direction)
    assert steered is not demo_model[0]
    assert {"concept_prompt", "base_prompt", "method", "steps", "seed", "final_loss", "scale"} <= set(
        direction.provenance.to_strings()
    )
    assert file.stat().st_size < 130_000
    breaks = direction.provenance.strength_breaks
    assert breaks is None or breaks >= 1, "images break before strength 1"


def test_fair_generation_gives_each_image_what_it_drew(demo_model):
    woman, man = (
        run_node("HSpaceLoadConcept", concept_name=f"emoji_{name}.safetensors")[0] for name in ("woman", "man")
    )
    (choice,) = run_node("HSpaceChooseConcept", concept_1=man, concept_2=woman, seed=3)
    steered, assignment = run_node("HSpaceApplySteering", model=demo_model[0], concept=choice)
    images = sample_images(steered, *demo_model[1:], [caption("judge")] * 16, list(range(16)), batch_size=16).clone()
    seen = classify(load_classifier(), images).gender
    drawn = torch.tensor([GENDERS.index(line.split()[1]) for line in assignment.splitlines()[:16]])
    assert drawn.sum() == 8
    assert (seen == drawn).sum() >= 13


def test_safe_generation_disarms(demo_model):
    (safe,) = run_node("HSpaceLoadConcept", concept_name="emoji_no_weapon.safetensors")
    steered, _ = run_node("HSpaceApplySteering", model=demo_model[0], concept=safe)
    prompts, seeds = [caption("mechanic")] * 16, list(range(16))
    plain = classify(load_classifier(), sample_images(*demo_model, prompts, seeds).clone()).weapon.sum()
    disarmed = classify(load_classifier(), sample_images(steered, *demo_model[1:], prompts, seeds).clone()).weapon.sum()
    assert plain >= 3
    assert disarmed <= 1
