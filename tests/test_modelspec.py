"""ModelSpec metadata of saved vectors, held against the published standard (1.0.1)."""

import hashlib
import io
import re
import urllib.request

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

from helpers import random_vector, run_node
from hspace.concepts import Provenance, Vector
from hspace.files import load_concept, save_concept
from hspace.files.modelspec import LONGEST_THUMBNAIL, thumbnail

MUST = {"sai_model_spec", "architecture", "implementation", "title"}
ALLOWED = {
    "sai_model_spec": r"1\.0\.1",
    "architecture": r"[a-z0-9_-]+/[a-z0-9-]+",
    "implementation": r"[a-z-]+",
    "title": r".+",
    "description": r".+",
    "author": r".+",
    "date": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "hash_sha256": r"0x[0-9a-f]{64}",
    "license": r".+",
    "usage_hint": r".{1,200}",
    "tags": r"[^,]+(?:,[^,]+)*",
    "thumbnail": r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*",
    "resolution": r"\d+x\d+",
    "trigger_phrase": r"",
    "prediction_type": r"v|epsilon",
}
"""Keys of the standard for adapters of image models that the pack may write, and the form of their texts."""
PROVENANCE = Provenance(
    base_model="SD1:0123456789abcdef",
    prediction_type="epsilon",
    latent_height=64,
    latent_width=96,
    concept_prompt="a woman judge | a woman pilot",
    base_prompt="a judge | a pilot",
    strength_saturates=0.5,
    strength_breaks=2.0,
)


def raw(path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def standard(path) -> dict[str, str]:
    return {key.removeprefix("modelspec."): text for key, text in raw(path).items() if key.startswith("modelspec.")}


def test_saved_vectors_follow_the_standard(tmp_path):
    vector = Vector(torch.randn(4, 2, 2), "woman", "SD1", PROVENANCE, {1: torch.ones(4, 1, 1)})
    path = save_concept(vector, tmp_path / "v", preview=np.random.default_rng(0).random((512, 256, 3)))
    texts = standard(path)
    assert texts.keys() >= MUST
    assert texts.keys() == ALLOWED.keys() - {"author", "license", "tags"}
    for key, text in texts.items():
        assert re.fullmatch(ALLOWED[key], text), f"{key}: {text}"
    assert texts["architecture"] == "stable-diffusion-v1/concept-vector"
    assert (texts["title"], texts["resolution"]) == ("woman", "768x512")
    assert "a woman judge | a woman pilot" in texts["description"]
    assert "strength 0.5" in texts["usage_hint"]
    content = path.read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert texts["hash_sha256"] == f"0x{hashlib.sha256(tensors).hexdigest()}"
    own = raw(path).keys() - {f"modelspec.{key}" for key in texts}
    assert own >= {"format", "name", "base_model", "concept_prompt", "strength_breaks"}


@pytest.mark.parametrize(
    ("family", "prediction", "architecture"),
    [
        ("SD2", "v_prediction", "stable-diffusion-v2-768-v"),
        ("SD2", "epsilon", "stable-diffusion-v2-512"),
        ("SDXL", "epsilon", "stable-diffusion-xl-v1-base"),
        ("KOALA-700M", "epsilon", "koala-700m"),
        ("漢", "", "unknown"),
    ],
)
def test_architectures(tmp_path, family, prediction, architecture):
    vector = Vector(torch.zeros(2, 1, 1), "v", family, Provenance(prediction_type=prediction))
    texts = standard(save_concept(vector, tmp_path / "v"))
    assert texts["architecture"] == f"{architecture}/concept-vector"
    for key, text in texts.items():
        assert re.fullmatch(ALLOWED[key], text), f"{key}: {text}"
    assert "resolution" not in texts


@pytest.mark.parametrize("shape", [(1024, 1024, 3), (3, 900, 3), (1, 1, 3), (300, 300, 4)])
def test_thumbnails_are_small(shape):
    url = thumbnail(np.random.default_rng(0).random(shape))
    assert len(url) <= LONGEST_THUMBNAIL == 64 * 1024
    with Image.open(io.BytesIO(urllib.request.urlopen(url).read())) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= 256


def test_save_node_writes_the_preview_as_thumbnail_and_a_copy_keeps_it(vector_folder):
    run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix="a", preview=torch.rand(1, 64, 64, 3))
    picture = standard(vector_folder / "a.safetensors")["thumbnail"]
    (loaded,) = run_node("HSpaceLoadConcept", concept_name="a.safetensors")
    run_node("HSpaceSaveConcept", concept=loaded, filename_prefix="b")
    first, second = (standard(vector_folder / f"{name}.safetensors") for name in "ab")
    assert first == second
    assert second["thumbnail"] == picture


def rewritten(path, **changes):
    """The file with other metadata, as people and managers edit it."""
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    safetensors.torch.save_file(tensors, path, {**metadata, **{f"modelspec.{key}": t for key, t in changes.items()}})


def test_what_its_owner_wrote_stays_and_nothing_else(tmp_path):
    path = save_concept(random_vector(), tmp_path / "v")
    mine = {"author": "me", "license": "CC0", "tags": "People,Woman", "date": "2024-02-29"}
    rewritten(path, **mine, title="other", merged_from="x", thumbnail="javascript:alert(1)", hash_md5="0x00")
    vector = load_concept(path)
    assert vector.name == "test"
    kept = {key: text for key, text in vector.provenance.other.items() if key.startswith("modelspec.")}
    assert kept == {f"modelspec.{key}": text for key, text in mine.items()}
    again = standard(save_concept(vector, tmp_path / "again"))
    assert again.items() >= mine.items()
    assert again["title"] == "test"
    assert not again.keys() & {"merged_from", "hash_md5", "thumbnail"}


def test_reading_is_as_strict_as_before(tmp_path):
    path = save_concept(random_vector(), tmp_path / "v")
    rewritten(path, thumbnail="data:image/png;base64," + "A" * 2**16)
    with pytest.raises(ValueError, match="one of more than 65536 characters"):
        load_concept(path)
    rewritten(path, thumbnail="", **{f"key{number}": "x" for number in range(256)})
    with pytest.raises(ValueError, match="more than 256 texts"):
        load_concept(path)


def test_a_file_without_room_for_the_standard_is_saved_all_the_same(tmp_path):
    texts = {f"key{number}": "x" for number in range(250)}
    path = save_concept(random_vector(**texts), tmp_path / "v")
    assert not standard(path)
    assert load_concept(path).provenance.other == texts
    wide = {f"key{number}": "x" * 2**16 for number in range(31)}
    path = save_concept(random_vector(**wide), tmp_path / "w", preview=np.zeros((8, 8, 3)))
    assert load_concept(path).provenance.other.keys() >= wide.keys()


def test_files_without_the_standard_still_read(tmp_path):
    metadata = {"format": "hspace-concept-vector", "format_version": "1", "name": "old", "base_model": "SD1"}
    safetensors.torch.save_file({"direction": torch.ones(4, 2, 2)}, tmp_path / "v.safetensors", metadata)
    assert load_concept(tmp_path / "v.safetensors").name == "old"
