"""A worker: keeps the checkpoint of its last task loaded, and does one task at a time. The engine runs many.

This module is imported before ComfyUI is found, so that workers on other machines can say that there is none.
"""

from __future__ import annotations

import errno
import gc
import os
import platform
import time
from pathlib import Path

from .comfyui import find_comfyui

FATAL = (ValueError, TypeError, FloatingPointError)
"""Errors that would come again; others may be of memory, of a disk or of a network, and are tried again."""
FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST_LINE = 500
"""Characters of what an error says."""


class Stopped(Exception):
    """The run is to end: raised inside a task, whose work so far is kept."""


def first_line(error: Exception) -> str:
    """What an error says, shortened as by `hspace.concepts.shortened`, which cannot be imported without ComfyUI."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


class Worker:
    """One process on one share of a GPU, or on a core."""

    def __init__(self):
        self._progress, self._stop, self._loaded, self._loads = (0, 0), False, None, 0

    def begin(self, threads: int, shared: str) -> dict:
        """Import what tasks need; where it is, or what is in the way.

        Args:
            threads: of torch on a CPU; 0 for torch's own choice.
            shared: a file that every worker must see, for what they write belongs to all.
        """
        about = {"pid": os.getpid(), "host": platform.node()}
        try:
            find_comfyui()
            if not Path(shared).is_file():
                raise ValueError(
                    f"--out: the worker on {platform.node()} does not see {Path(shared).parent}; with several "
                    "machines it must be on a disk that they share, under the same path."
                )
            import comfy.model_management
            import torch
        except (ValueError, ImportError) as error:
            return {**about, "error": f"{error}" or type(error).__name__}
        if threads:
            torch.set_num_threads(threads)
        return {**about, "device": str(comfy.model_management.get_torch_device())}

    def progress(self) -> tuple[int, int]:
        """Steps of the present task that are done, and how many there are; callable while a task runs."""
        return self._progress

    def stop(self) -> None:
        """End the present task after its next step, its work kept; callable while it runs."""
        self._stop = True

    def run(self, kind: str, checkpoint: str, task) -> dict:
        """Do a task; what goes wrong comes back as text, and whether it would go wrong again.

        Args:
            kind: "discover" for a `Job`, "row" for a row of an evaluation, "probe" for its cost.
            checkpoint: what to have loaded.
        """
        self._progress, began = (0, 0), time.perf_counter()
        try:
            loaded = self._load(checkpoint)
            ready = time.perf_counter()
            result = self._do(kind, loaded, task)
        except Stopped:
            return {"error": "stopped", "again": False}
        except Exception as error:
            text = first_line(error)
            described = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
            full = isinstance(error, OSError) and error.errno in FULL
            return {"error": described, "again": not isinstance(error, FATAL), "full": full}
        return {
            "result": result,
            "loading": ready - began,
            "working": time.perf_counter() - ready,
            "loads": self._loads,
        }

    def _do(self, kind: str, loaded, task) -> dict:
        if kind == "discover":
            from .discovering import run_job

            return run_job(loaded, task, self._tell)
        from .evaluation.rows import probe, run_row

        return (probe if kind == "probe" else run_row)(loaded, task, self._tell)

    def _tell(self, done: int, of: int) -> None:
        self._progress = done, of
        if self._stop:
            raise Stopped

    def _load(self, checkpoint: str):
        if self._loaded is None or self._loaded.path != checkpoint:
            import comfy.model_management

            from .checkpoints import load

            self._loaded = None
            comfy.model_management.unload_all_models()
            gc.collect()
            comfy.model_management.soft_empty_cache()
            self._loaded = load(checkpoint)
            self._loads += 1
        return self._loaded
