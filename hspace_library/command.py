"""What the two commands share: options of Ray, and errors as one line each."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable

from .comfyui import find_comfyui

NEEDED = ("pydantic", "rich", "yaml")


def add_ray(parser: argparse.ArgumentParser) -> None:
    """The option `--ray`."""
    parser.add_argument(
        "--ray",
        default="auto",
        metavar="auto|local|ADDRESS",
        help="auto: the Ray that runs on this machine or at RAY_ADDRESS, else one of this run's own; local: one of its "
        "own; or the address of one, HOST:PORT",
    )


def run(name: str, work: Callable[[], int]) -> int:
    """Call `work` with ComfyUI at hand; the exit status: 0, 1 where some of the work failed, 2 for errors of input."""
    try:
        find_comfyui()
        for module in NEEDED:
            importlib.import_module(module)
        return 1 if work() else 0
    except ModuleNotFoundError as error:
        lines = [f"{error.name} is not installed: `pip install .[scale]` in a clone of the pack."]
    except (ValueError, OSError) as error:
        lines = str(error).splitlines()
    except KeyboardInterrupt:
        lines = ["cancelled; the same command goes on from here."]
    for line in lines:
        print(f"{name}: {line}", file=sys.stderr)
    return 2
