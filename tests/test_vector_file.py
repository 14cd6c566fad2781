"""Vector files: what is written comes back, and what strangers send is checked."""

import json
import os
import pickle
import string

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hspace.concepts import Provenance, UnfinishedVector, Vector
from hspace.files import import_paper_concept, load_concept, save_concept, vector_path
from hspace.files.paper_file import concept_names
from hspace.files.vector_file import FORMAT

names = st.text(string.ascii_letters + string.digits + " äø漢-_", min_size=1, max_size=30).filter(str.strip)
shapes = st.tuples(st.integers(1, 24), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(
    name=names, shape=shapes, seed=st.integers(0, 2**31), texts=st.dictionaries(names, st.text(max_size=50), max_size=4)
)
def test_round_trip(tmp_path_factory, name, shape, seed, texts):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    provenance = Provenance(base_model="SD1:0123456789abcdef", concept_prompt="a woman", other=texts)
    path = save_concept(Vector(tensor, name, "SD1", provenance), tmp_path_factory.mktemp("v") / "v")
    read = load_concept(path)
    assert torch.equal(read.tensor, tensor)
    assert (read.name, read.family) == (name, "SD1")
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata()["h_channels"] == str(shape[0])
    assert read.provenance.concept_prompt == "a woman"
    assert {key for key in read.provenance.other if not key.startswith("modelspec.")} == texts.keys() - {"name"}
    assert type(read) is Vector


def test_partial_state_comes_back(tmp_path):
    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 1, 1)}
    path = save_concept(UnfinishedVector(torch.zeros(2, 1, 1), "v", "SD1", state=state), tmp_path / "v")
    assert load_concept(path).state["step"] == 3
    assert torch.equal(load_concept(path).state["exp_avg"], state["exp_avg"])


GOOD = {"format": FORMAT, "format_version": "1", "name": "v", "base_model": "SD1"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"direction": torch.zeros(2, 2, 2)}, {}, "not a concept vector"),
        ({"direction": torch.zeros(2, 2, 2)}, {**GOOD, "format": "lora"}, "not a concept vector"),
        ({"direction": torch.zeros(2, 2, 2)}, {**GOOD, "format_version": "9"}, "update the pack"),
        ({"other": torch.zeros(2, 2, 2)}, GOOD, "no tensor 'direction'"),
        ({"direction": torch.zeros(2, 2)}, GOOD, "shape"),
        ({"direction": torch.zeros(9000, 1, 1)}, GOOD, "shape"),
        ({"direction": torch.zeros(1, 1, 600)}, GOOD, "shape"),
        ({"direction": torch.zeros(2, 2, 2, dtype=torch.int64)}, GOOD, "float32 or float16"),
        ({"direction": torch.full((2, 2, 2), float("inf"))}, GOOD, "not finite"),
        ({"direction": torch.zeros(2, 2, 2), "state.exp_avg": torch.full((1,), float("nan"))}, GOOD, "not finite"),
    ],
)
def test_hostile_safetensors(tmp_path, tensors, metadata, words):
    path = tmp_path / "v.safetensors"
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=words):
        load_concept(path)


def test_garbage_and_absent_files(tmp_path):
    path = tmp_path / "v.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load_concept(path)
    with pytest.raises(ValueError, match="is not there"):
        load_concept(tmp_path / "gone.safetensors")


def paper_file(folder, columns=3, side=8, names=("woman", "man", "dark")):
    weight = torch.randn(1280 * side * side, columns, generator=torch.Generator().manual_seed(0))
    torch.save({"controlnet.fc1.weight": weight}, folder / "unet.pth")
    if names:
        (folder / "concept_dict.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    return folder / "unet.pth", weight


def test_import_by_name_and_by_column(tmp_path):
    path, weight = paper_file(tmp_path)
    by_name, by_column = import_paper_concept(path, "man"), import_paper_concept(path, "1")
    assert torch.equal(by_name.tensor, weight[:, 1].view(1280, 8, 8))
    assert torch.equal(by_name.tensor, by_column.tensor)
    assert (by_name.name, by_name.family, by_name.provenance.method) == ("man", "SD1", "paper")
    (tmp_path / "concept_dict.json").write_text(json.dumps({"0": "woman", "1": "man", "2": "dark"}))
    assert concept_names(path) == ["woman", "man", "dark"]
    assert torch.equal(load_concept(save_concept(by_name, tmp_path / "man")).tensor, by_name.tensor)


@pytest.mark.parametrize("concept", ["cat", "3", "-1", ""])
def test_import_of_unknown_concepts_lists_the_known(tmp_path, concept):
    path, _ = paper_file(tmp_path)
    with pytest.raises(ValueError, match=r"concept_name: .*(woman, man, dark|3 columns)"):
        import_paper_concept(path, concept)


def test_import_never_runs_code(tmp_path):
    class Exploit:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"controlnet.fc1.weight": Exploit()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Exploit()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match="cannot be opened safely"):
            import_paper_concept(tmp_path / name, "0")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "state", [{"x": torch.zeros(2)}, torch.zeros(2), {"controlnet.fc1.weight": torch.zeros(1281, 2)}]
)
def test_import_of_other_layouts(tmp_path, state):
    torch.save(state, tmp_path / "unet.pth")
    with pytest.raises(ValueError, match=r"unet.pth"):
        import_paper_concept(tmp_path / "unet.pth", "0")


@pytest.mark.parametrize(
    "prefix", ["../evil", "a/../../evil", "/etc/evil", "", "  ", "..", "a/..", "\\evil", "C:\\..\\evil"]
)
def test_file_names_stay_in_their_folder(vector_folder, prefix):
    with pytest.raises(ValueError, match="filename_prefix"):
        vector_path(prefix)


def test_existing_files_are_never_overwritten(tmp_path):
    vector = Vector(torch.zeros(2, 1, 1), "v", "SD1")
    paths = [save_concept(vector, tmp_path / "sd15" / "woman", overwrite=False) for _ in range(3)]
    assert [path.name for path in paths] == ["woman.safetensors", "woman_2.safetensors", "woman_3.safetensors"]
    assert save_concept(vector, paths[0]) == paths[0]
