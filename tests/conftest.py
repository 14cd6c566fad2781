"""The pack as ComfyUI loads it, tiny real U-Nets, and a real server.

The pack's root package cannot be imported by name (its `nodes/` would shadow ComfyUI's `nodes.py`), so everything
goes through `scripts/run_module.py`, which every test folder shares.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _load_by_path(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


run_module = _load_by_path("run_module", ROOT / "scripts" / "run_module.py")
run_module.add_comfyui_to_path()
run_module.load_pack()
helpers = _load_by_path("hspace_test_helpers", ROOT / "tests" / "helpers.py")

import torch  # noqa: E402

torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture
def vector_folder(tmp_path, monkeypatch):
    """The folder kind `concept_vectors`, with the user's folder in a temporary place."""
    import folder_paths
    from hspace_steering.hspace.vector_file import FOLDER_KIND

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
    with torch.inference_mode():
        return helpers.run_node("HSpaceLoadDemoModel")


@pytest.fixture(scope="session")
def server():
    """A running ComfyUI with the pack in it."""
    with helpers.running_server() as running:
        yield running
