"""Load, Save and Import as nodes: what ComfyUI's validation and caching see."""

import json
import os

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
