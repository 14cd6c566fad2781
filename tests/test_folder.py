"""Names of files and the folders they are in: links, other systems' slashes, the user's own folders, and safe names."""

import importlib.util
import os
import sys
import urllib.error
import urllib.request

import folder_paths
import pytest
import torch

from helpers import ROOT, node_classes, random_vector, run_node
from hspace.concepts import Vector
from hspace.files import (
    FOLDER_KIND,
    PartialFile,
    find_vector,
    is_name,
    list_vectors,
    load_concept,
    register_folder,
    safe_concept_name,
    safe_name,
    save_concept,
    vector_path,
)
from scripts.comfyui import comfyui_folder


def extra_config():
    """ComfyUI's `utils.extra_config`, from its file: other packages that tests import have a `utils` of their own."""
    spec = importlib.util.spec_from_file_location("extra_config", comfyui_folder() / "utils" / "extra_config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = Vector(torch.ones(2, 1, 1), "woman", "SD1")

UNSAFE = {
    "..": "unnamed",
    ".": "unnamed",
    " . . ": "unnamed",
    "": "unnamed",
    "CON": "_CON",
    "aux.v1": "_aux.v1",
    "nul .txt": "_nul .txt",
    "COM¹": "_COM¹",
    "woman.": "woman",
    "a/b\\c": "a_b_c",
    'a<b>"|?*:': "a_b______",
    "half \ud83d": "half _",
    "two\nlines": "two_lines",
    "back\u202ewards": "back_wards",
    "x" * 300: "x" * 200,
    "é" * 150: "é" * 100,
    "😀" * 80: "😀" * 50,
}
"""Names that some system cannot have, and what becomes of them."""


def refusal(call, *arguments) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(("name", "safe"), UNSAFE.items(), ids=ascii)
def test_names_are_made_safe(vector_folder, name, safe):
    assert safe_name(name) == safe
    assert safe_name(safe) == safe
    partial = PartialFile(name)
    partial.check()
    assert partial.save(SMALL) == vector_folder / "partial" / f"{safe}.safetensors"
    assert f"'{safe}' is used instead" in partial.renamed
    partial.discard()
    assert not list((vector_folder / "partial").iterdir())


@pytest.mark.parametrize("name", ["woman", "dark skin", "女性", "👩‍🚒", "a.b", "console", "aux1", "-x", "x" * 200])
def test_safe_names_stay(name):
    assert safe_name(name) == name
    assert PartialFile(name).renamed == ""


@pytest.mark.parametrize("prefix", ["CON/aux.v1", "é" * 150, "😀" * 80, "\ud800", "x" * 300, "a:b/c?"])
def test_save_says_on_the_node_what_it_made_safe(vector_folder, monkeypatch, prefix):
    shown, _ = [], node_classes()
    monkeypatch.setattr(
        sys.modules["hspace_steering.nodes.vectors"], "show_on_node", lambda text, _: shown.append(text)
    )
    (path,) = run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix=prefix)
    assert load_concept(path).name == "test"
    assert len(shown) == 1
    assert "is used instead" in shown[0]
    run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix="sd15\\woman")
    assert len(shown) == 1


@pytest.mark.parametrize("name", ["x" * 300, "two\nlines", " ", "", "half \ud83d", "\u202ebackwards"])
def test_a_concept_of_any_name_is_saved_under_one_that_loads(tmp_path, name):
    assert not is_name(name)
    loaded = load_concept(save_concept(Vector(torch.ones(2, 1, 1), name, "SD1"), tmp_path / "v"))
    assert loaded.name == safe_concept_name(name)
    assert is_name(loaded.name)


def test_texts_of_any_length_are_saved_so_that_they_load(tmp_path):
    vector = random_vector(concept_prompt="a woman | " * 20_000, base_prompt="half \ud83d")
    loaded = load_concept(save_concept(vector, tmp_path / "v"))
    assert loaded.provenance.concept_prompt == vector.provenance.concept_prompt[: 2**16 - 1] + "…"
    assert loaded.provenance.base_prompt == "half ?"


@pytest.mark.parametrize(
    "prefix", ["", " ", "..", "a/../b", "/etc/x", "\\\\server\\x", "C:\\x", "./.", "a/" * 20, None, 5]
)
def test_a_prefix_that_leads_out_is_refused_before_anything_runs(vector_folder, prefix):
    assert refusal(vector_path, prefix).startswith("filename_prefix: ")
    if prefix is not None:
        assert str(node_classes()["HSpaceSaveConcept"].validate_inputs(prefix)).startswith("filename_prefix: ")


def test_a_file_in_the_way_of_a_folder_is_named(vector_folder):
    (vector_folder / "woman").touch()
    with pytest.raises(OSError, match=r"No vector could be written to .*woman"):
        save_concept(SMALL, vector_path("woman/young"), overwrite=False)


def test_links_in_the_folder_work(vector_folder, tmp_path):
    """A file, a folder, and the whole folder, wherever the link leads; saving into a linked folder too."""
    elsewhere = tmp_path / "elsewhere"
    save_concept(SMALL, elsewhere / "woman")
    (vector_folder / "linked.safetensors").symlink_to(elsewhere / "woman.safetensors")
    (vector_folder / "folder").symlink_to(elsewhere, target_is_directory=True)
    for name in ("linked.safetensors", "folder/woman.safetensors"):
        assert node_classes()["HSpaceLoadConcept"].validate_inputs(name) is True
        assert run_node("HSpaceLoadConcept", concept_name=name)[0].name == "woman"
    run_node("HSpaceSaveConcept", concept=SMALL, filename_prefix="folder/man")
    assert (elsewhere / "man.safetensors").is_file()
    vector_folder.rename(tmp_path / "moved")
    vector_folder.symlink_to(tmp_path / "moved", target_is_directory=True)
    assert find_vector("linked.safetensors", "concept_name", ".safetensors").is_file()
    (vector_folder / "dangling.safetensors").symlink_to(tmp_path / "gone")
    assert "dangling" in refusal(find_vector, "dangling.safetensors", "concept_name", ".safetensors")


def test_names_that_lead_out_or_are_none_are_refused(vector_folder, tmp_path):
    save_concept(SMALL, tmp_path / "outside")
    inside = save_concept(SMALL, vector_folder / "inside")
    (vector_folder / "notes.txt").write_text("x")
    for name in (
        "../outside.safetensors",
        "..\\outside.safetensors",
        "x/../../outside.safetensors",
        str(inside),
        "notes.txt",
        "",
        ".",
        "inside.safetensors\0",
        "x" * 100_000 + ".safetensors",
        "\ud800.safetensors",
        5,
        ["inside.safetensors"],
    ):
        message = refusal(find_vector, name, "concept_name", ".safetensors")
        assert message.startswith("concept_name: ")
        assert len(message) < 700


def test_backslashes_of_a_workflow_made_on_windows(vector_folder):
    save_concept(SMALL, vector_folder / "sub" / "woman")
    assert run_node("HSpaceLoadConcept", concept_name="sub\\woman.safetensors")[0].name == "woman"
    if os.name != "nt":  # where a backslash may be part of a name, that name comes first
        save_concept(Vector(torch.ones(2, 1, 1), "other", "SD1"), vector_folder / "sub\\woman")
        assert run_node("HSpaceLoadConcept", concept_name="sub\\woman.safetensors")[0].name == "other"


def test_capital_suffixes_are_listed_and_leftovers_of_macos_are_not(vector_folder):
    save_concept(SMALL, vector_folder / "loud.SAFETENSORS")
    (vector_folder / "._loud.safetensors").write_bytes(b"\0\5\x16\7")
    (vector_folder / "PAPER.PTH").touch()
    (vector_folder / "._PAPER.PTH").touch()
    (vector_folder / ".hspace-00.partial").touch()
    if sys.platform == "linux":
        (vector_folder / os.fsdecode(b"\xff.safetensors")).touch()
    assert {"loud.SAFETENSORS"} == set(list_vectors(".safetensors")) - set(shipped())
    assert list_vectors(".pth") == ["PAPER.PTH"]
    assert run_node("HSpaceLoadConcept", concept_name="loud.SAFETENSORS")[0].name == "woman"


def shipped() -> list[str]:
    return [path.name for path in (ROOT / "vectors").glob("*.safetensors")]


@pytest.mark.parametrize(
    ("node_id", "suffix"), [("HSpaceLoadConcept", ".safetensors"), ("HSpaceImportConcept", ".pth")]
)
def test_a_name_from_another_node_is_validated_when_it_is_known(vector_folder, node_id, suffix):
    node = node_classes()[node_id]
    assert node.validate_inputs(None) is True
    assert node.validate_inputs() is True
    before = node.fingerprint_inputs(None) if suffix == ".safetensors" else node.fingerprint_inputs(None, "0")
    (vector_folder / f"new{suffix}").touch()
    after = node.fingerprint_inputs(None) if suffix == ".safetensors" else node.fingerprint_inputs(None, "0")
    assert before != after, "a new or changed file may be the one that is meant"


def test_the_default_folder_of_extra_model_paths_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    config = tmp_path / "extra_model_paths.yaml"
    config.write_text(f"mine:\n  base_path: {tmp_path}\n  is_default: true\n  concept_vectors: my vectors\n")
    extra_config().load_extra_path_config(str(config))  # which ComfyUI does before it loads packs
    register_folder()
    register_folder()
    assert vector_path("woman") == tmp_path / "my vectors" / "woman"
    assert len(folder_paths.get_folder_paths(FOLDER_KIND)) == 3


def queue(server, prompt: dict) -> str:
    """What the server answers to a prompt that it refuses."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.queue(prompt)
    return refused.value.read().decode()


def test_a_server_takes_linked_names_and_refuses_bad_prefixes(server):
    folder = server.base / "models" / "concept_vectors"
    save_concept(SMALL, folder / "linked" / "woman")
    load = {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": "linked\\woman.safetensors"}}
    inspect = {"class_type": "HSpaceInspectConcept", "inputs": {"concept": ["1", 0]}}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}}
    outputs = server.run({"1": load, "2": inspect, "3": show})
    assert "woman" in str(outputs["3"])
    save = {"class_type": "HSpaceSaveConcept", "inputs": {"concept": ["1", 0], "filename_prefix": "../evil"}}
    assert "filename_prefix" in queue(server, {"1": load, "2": save})
