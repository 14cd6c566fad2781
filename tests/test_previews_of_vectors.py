"""The picture that Discover hands on, and that Save writes beside the vector."""

import numpy as np
import pytest
import torch
from hspace_steering.nodes.editor import NodeObserver
from PIL import Image

from helpers import conditioning, random_vector, run_node, tiny_model
from hspace.discovery import Progress

SIZES = {"steps": 2, "batch_size": 1, "sample_count": 1, "width": 64, "height": 128, "calibrate": False}


def test_one_wire_from_discover_to_save(vector_folder):
    prompts = {"concept": conditioning(1), "base": conditioning(2)}
    vector, _, _, preview = run_node("HSpaceDiscoverConcept", model=tiny_model(), name="a", **prompts, **SIZES)
    assert preview.shape == (1, 256, 128, 3)  # two images side by side, plain above steered
    assert 0 <= preview.min() < preview.max() <= 1
    run_node("HSpaceSaveConcept", concept=vector, filename_prefix="sub/a", preview=preview)
    with Image.open(vector_folder / "sub" / "a.png") as picture:
        assert picture.size == (128, 256)
        assert np.allclose(np.asarray(picture) / 255, preview[0].numpy(), atol=1 / 255)


@pytest.mark.parametrize("preview_every", [0, 1, 50])
def test_a_user_without_previews_gets_the_picture_all_the_same(preview_every, monkeypatch):
    monkeypatch.setattr("hspace_steering.nodes.editor.previewer_for", lambda model: None)
    prompts = {"concept": conditioning(1), "base": conditioning(2), "preview_every": preview_every}
    *_, preview = run_node("HSpaceDiscoverConcept", model=tiny_model(), name="a", **prompts, **SIZES)
    assert preview.shape == ((1, 256, 128, 3) if preview_every else (1, 128, 64, 3))


def test_it_is_the_last_comparison():
    observer = NodeObserver(tiny_model(), 2, "a", 1, None)
    for value in (0.0, 1.0):
        observer.step(Progress(1, 2, 0.5, torch.full((1, 4, 16, 16), value), random_vector))
        seen = observer.picture()
    assert not torch.equal(seen, torch.zeros_like(seen))
    other = NodeObserver(tiny_model(), 2, "a", 1, None)
    other.step(Progress(1, 2, 0.5, torch.ones(1, 4, 16, 16), random_vector))
    assert torch.equal(seen, other.picture())


def test_nothing_is_written_over(vector_folder):
    (vector_folder / "a.png").write_bytes(b"mine")
    run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix="a", preview=torch.rand(1, 8, 8, 3))
    assert (vector_folder / "a.png").read_bytes() == b"mine"
    assert (vector_folder / "a.safetensors").exists()
    run_node("HSpaceSaveConcept", concept=random_vector(), filename_prefix="a", preview=torch.rand(1, 8, 2000, 3))
    with Image.open(vector_folder / "a_2.png") as picture:
        assert picture.size == (1024, 4)
