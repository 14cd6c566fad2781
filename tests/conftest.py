"""The pack as ComfyUI loads it, a folder for vectors, the demo model, and a real server."""

from __future__ import annotations

import pytest
import torch

from scripts.comfyui import find_comfyui, load_pack

find_comfyui()
load_pack()

torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture
def vector_folder(tmp_path, monkeypatch):
    """The folder kind `concept_vectors`, with the user's folder in a temporary place."""
    import folder_paths

    from hspace.files import FOLDER_KIND

    paths, extensions = folder_paths.folder_names_and_paths[FOLDER_KIND]
    folder = tmp_path / "concept_vectors"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER_KIND, ([str(folder), *paths[1:]], extensions))
    folder_paths.filename_list_cache.pop(FOLDER_KIND, None)
    yield folder
    folder_paths.filename_list_cache.pop(FOLDER_KIND, None)


@pytest.fixture(scope="session")
def demo_model():
    """MODEL, CLIP and VAE of the bundled demo model, loaded as its node loads them."""
    from helpers import run_node

    with torch.inference_mode():
        return run_node("HSpaceLoadDemoModel")


@pytest.fixture(scope="session")
def server():
    """A running ComfyUI with the pack in it."""
    from scripts.comfy_server import running_server

    with running_server() as running:
        yield running
