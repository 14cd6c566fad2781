"""What ships with the pack: vectors that do what they say, and workflows that run as they are."""

import pytest
import torch
from hspace_steering.demo.captions import GENDERS, caption
from hspace_steering.demo.classifier import classify, load_classifier
from hspace_steering.demo.generate import draw
from hspace_steering.hspace.vector_file import load_direction
from hspace_test_helpers import ROOT, run_node

VECTORS = sorted((ROOT / "vectors").glob("*.safetensors"))
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_vector_fits_the_demo_model_and_says_how_it_was_found(demo_model, file):
    direction = load_direction(file)
    steered, _ = run_node("HSpaceApplySteering", model=demo_model[0], concept=direction)
    assert steered is not demo_model[0]
    assert {"concept_prompt", "base_prompt", "method", "steps", "seed", "final_loss", "scale"} <= set(
        direction.metadata
    )
    assert file.stat().st_size < 20_000


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_runs(server, file):
    """From the very file that users open, with fewer steps and images."""
    prompt = server.convert(file)
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "HSpaceDiscoverConcept":
            inputs.update({"steps": 8, "batch_size": 2, "sample_count": 4})
        if node["class_type"] == "EmptyLatentImage":
            inputs["batch_size"] = 2
        if node["class_type"] == "KSampler":
            inputs["steps"] = 3
    outputs = server.run(prompt)
    showing = [node for node in prompt.values() if node["class_type"] in ("SaveImage", "PreviewImage")]
    assert sum("images" in output for output in outputs.values()) == len(showing) > 0


def test_fair_generation_gives_each_image_what_it_drew(demo_model):
    woman, man = (
        run_node("HSpaceLoadConcept", concept_name=f"emoji_{name}.safetensors")[0] for name in ("woman", "man")
    )
    (choice,) = run_node("HSpaceChooseConcept", concept_1=man, concept_2=woman, seed=3)
    steered, assignment = run_node("HSpaceApplySteering", model=demo_model[0], concept=choice)
    images = draw(steered, *demo_model[1:], [caption("judge")] * 16, list(range(16)), batch_size=16).clone()
    seen = classify(load_classifier(), images).gender
    drawn = torch.tensor([GENDERS.index(line.split()[1]) for line in assignment.splitlines()[:16]])
    assert drawn.sum() == 8
    assert (seen == drawn).sum() >= 13


def test_safe_generation_disarms(demo_model):
    (safe,) = run_node("HSpaceLoadConcept", concept_name="emoji_no_weapon.safetensors")
    steered, _ = run_node("HSpaceApplySteering", model=demo_model[0], concept=safe)
    prompts, seeds = [caption("mechanic")] * 16, list(range(16))
    plain = classify(load_classifier(), draw(*demo_model, prompts, seeds).clone()).weapon.sum()
    disarmed = classify(load_classifier(), draw(steered, *demo_model[1:], prompts, seeds).clone()).weapon.sum()
    assert plain >= 3
    assert disarmed <= 1
