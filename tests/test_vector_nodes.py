"""Load, Save and Import as nodes: what ComfyUI's validation and caching see."""

import json
import os
import sys

import pytest
import torch

from helpers import node_classes, random_vector, run_node


def test_save_never_overwrites_and_load_lists_the_file(vector_folder):
    (first,) = run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix="woman")
    (second,) = run_node("HSpaceSaveConcept", concept=random_vector(seed=1), filename_prefix="woman")
    assert first != second
    options = node_classes()["HSpaceLoadConcept"].GET_SCHEMA().inputs[0].options
    assert {"woman.safetensors", "woman_2.safetensors"} <= set(options)


def test_save_refuses_combinations(vector_folder):
    with pytest.raises(ValueError, match=r"concept: .*combination"):
        run_node("HSpaceSaveConcept", concept=2 * random_vector(), filename_prefix="woman")


def test_load_says_what_a_vector_is(vector_folder, monkeypatch):
    shown = []
    monkeypatch.setattr(
        sys.modules["hspace_steering.nodes.vectors"], "show_lines_on_node", lambda lines, _: shown.append(lines)
    )
    found = {"base_model": "TinyModel:0123", "concept_prompt": "a woman\njudge" * 40, "base_prompt": "a judge"}
    for name, texts in {"woman": {**found, "strength_saturates": "0.5", "strength_breaks": "2"}, "other": {}}.items():
        run_node("HSpaceSaveConcept", concept=random_vector(name=name, **texts), filename_prefix=name)
        run_node("HSpaceLoadConcept", concept_name=f"{name}.safetensors")
    full, bare = shown
    assert full[:2] == ["woman", "base model: TinyModel"]
    assert full[2] == "the concept is there from strength 0.5 on, images begin to break at 2"
    assert full[3].startswith("with: a woman judgea woman judge")
    assert full[3].endswith("…")
    assert len(full[3]) < 100
    assert full[4:] == ["without: a judge"]
    assert bare == ["other", "base model: TinyModel", "range of strengths: not measured"]


def test_missing_files_are_named_before_anything_runs(vector_folder):
    nodes = node_classes()
    assert "gone.safetensors" in nodes["HSpaceLoadConcept"].validate_inputs("gone.safetensors")
    assert "concept_name" in nodes["HSpaceLoadConcept"].validate_inputs("../../secret.safetensors")
    assert "file" in nodes["HSpaceImportConcept"].validate_inputs("gone.pth")


def test_fingerprint_changes_with_the_file(vector_folder):
    load = node_classes()["HSpaceLoadConcept"]
    run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix="woman")
    before = load.fingerprint_inputs("woman.safetensors")
    os.utime(vector_folder / "woman.safetensors", (1, 1))
    assert load.fingerprint_inputs("woman.safetensors") != before


def test_import_node(vector_folder):
    torch.save({"controlnet.fc1.weight": torch.randn(1280 * 64, 2)}, vector_folder / "unet.pth")
    (vector_folder / "concept_dict.json").write_text(json.dumps({"woman": 0, "man": 1}))
    assert "unet.pth" in node_classes()["HSpaceImportConcept"].GET_SCHEMA().inputs[0].options
    (concept,) = run_node("HSpaceImportConcept", file="unet.pth", concept_name="man")
    assert (concept.name, concept.tensor.shape) == ("man", (1280, 8, 8))


def test_a_column_that_training_never_touched_is_named(vector_folder, caplog):
    matrix = 0.2 * torch.rand(1280, 4, generator=torch.Generator().manual_seed(0)) - 0.1
    matrix[:, 2] += 0.05 * torch.randn(1280, generator=torch.Generator().manual_seed(1))
    torch.save({"controlnet.fc1.weight": matrix}, vector_folder / "checkpoint.pth")
    run_node("HSpaceImportConcept", file="checkpoint.pth", concept_name="2")
    assert not caplog.text
    (concept,) = run_node("HSpaceImportConcept", file="checkpoint.pth", concept_name="1")
    assert torch.equal(concept.tensor.flatten(), matrix[:, 1])
    assert "'1' of 'checkpoint.pth' looks untrained" in caplog.text
    assert "look trained: 2." in caplog.text
