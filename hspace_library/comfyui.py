"""Find ComfyUI, whose Python modules everything here needs, without a server."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Of a checkout, where there is one: it has the demo model, and after `make setup` a ComfyUI."""


def find_comfyui() -> None:
    """Make ComfyUI importable, and `demo` in a checkout: by COMFYUI_PATH, the Python path, or the checkout's own.

    A checkout has a `nodes` of its own, so ComfyUI's folder comes first on `sys.path`.

    Raises:
        ValueError: there is none.
    """
    if (ROOT / "demo").is_dir() and str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    folder = comfyui_folder()
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    importlib.import_module("hspace")  # before anything of comfy: it chooses the CPU where there is no accelerator


def comfyui_folder() -> Path:
    """The folder of ComfyUI. Raises ValueError where there is none."""
    if named := os.environ.get("COMFYUI_PATH"):
        candidates = [Path(named)]
    else:
        candidates = [*(Path(entry) for entry in sys.path if entry), ROOT / ".cache" / "ComfyUI"]
    for folder in candidates:
        if (folder / "comfy" / "sd.py").is_file():
            return folder.resolve()
    where = f" in {named}" if named else ""
    raise ValueError(f"COMFYUI_PATH: there is no ComfyUI{where}; set it to the folder that holds ComfyUI's main.py.")
