"""Find ComfyUI, and load the pack as ComfyUI does: the beginning of all scripts, benchmarks, training and tests.

Two folders have a `nodes` at their top: ComfyUI (`nodes.py`) and this repository (`nodes/`). ComfyUI's must win, so its
folder comes first on `sys.path`, and the pack's own nodes are reached as `hspace_steering.nodes`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACK = "hspace_steering"
SHARED = ("hspace", "demo")
"""Packages that are importable by themselves as well as below the pack."""
TRAINING = "demo.training"
"""Needs more than ComfyUI brings, and no node uses it."""


def comfyui_folder() -> Path:
    """COMFYUI_PATH, else `.cache/ComfyUI` of the repository; its content is not checked."""
    return Path(os.environ.get("COMFYUI_PATH") or ROOT / ".cache" / "ComfyUI").resolve()


def find_comfyui() -> Path:
    """ComfyUI's folder, first on `sys.path` from now on; the repository comes after it, and `hspace` is imported.

    Raises:
        SystemExit: there is no ComfyUI in that folder.
    """
    folder = comfyui_folder()
    if not (folder / "comfy").is_dir():
        raise SystemExit(f"No ComfyUI in {folder}: run `make setup`, or point COMFYUI_PATH at yours.")
    _put_first(folder)
    importlib.import_module("hspace")  # before anything of comfy: it chooses the CPU where there is no accelerator
    return folder


def load_pack() -> ModuleType:
    """The pack as ComfyUI loads it, from its file location, as the package `hspace_steering`.

    `hspace_steering.hspace.x` is the same module as `hspace.x`, and `hspace_steering.demo.x` the same as `demo.x`: a
    class must not exist twice, or `isinstance` fails between what nodes make and what scripts and tests make.
    """
    if PACK in sys.modules:
        return sys.modules[PACK]
    find_comfyui()
    for name in SHARED:
        for module in _with_submodules(name):
            sys.modules[f"{PACK}.{module.__name__}"] = module
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    pack = importlib.util.module_from_spec(spec)
    for name in SHARED:
        setattr(pack, name, sys.modules[name])
    sys.modules[PACK] = pack
    try:
        spec.loader.exec_module(pack)
    except BaseException:
        del sys.modules[PACK]  # half a pack is none
        raise
    return pack


def _put_first(folder: Path) -> None:
    """ComfyUI, the repository, then whatever else `sys.path` had."""
    first = [str(folder), str(ROOT)]
    sys.path[:] = [*first, *(entry for entry in sys.path if entry not in first)]


def _with_submodules(name: str) -> Iterator[ModuleType]:
    """A package and everything below it, imported, but for the training of the demo model."""
    package = importlib.import_module(name)
    yield package
    for found in pkgutil.iter_modules(package.__path__, f"{name}."):
        if found.ispkg and found.name != TRAINING:
            yield from _with_submodules(found.name)
        elif not found.ispkg:
            yield importlib.import_module(found.name)
