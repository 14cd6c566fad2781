"""Run a module of the pack from the shell: `python -P scripts/run_module.py demo.training.train --help`.

ComfyUI imports the pack by file location under a name of its own; this does the same, so that relative imports work
and the pack's `nodes/` never shadows ComfyUI's `nodes.py`. `COMFYUI_PATH` says where ComfyUI is (default
`.cache/ComfyUI`).
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "hspace_steering"


def add_comfyui_to_path() -> Path:
    """Put ComfyUI on `sys.path` and choose the CPU where there is no CUDA; returns its folder."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".cache" / "ComfyUI").resolve()
    if not (comfyui / "comfy").is_dir():
        raise SystemExit(f"No ComfyUI in {comfyui}: run `make setup`, or point COMFYUI_PATH at yours.")
    sys.path.insert(0, str(comfyui))
    import torch
    from comfy.cli_args import args

    args.cpu = args.cpu or not torch.cuda.is_available()
    return comfyui


def load_pack() -> ModuleType:
    """The pack as a package named `hspace_steering`, imported from its file location."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        spec.loader.exec_module(module)
    return sys.modules[PACKAGE]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    add_comfyui_to_path()
    load_pack()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(f"{PACKAGE}.{module}", run_name="__main__", alter_sys=True)
