"""The overhead of previews, resuming and saving in a discovery: the demo model, whole discoveries in turn.

Writes discovery_overhead.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from comfy.cli_args import LatentPreviewMethod, args

from hspace import UnfinishedVector, save_concept
from hspace.discovery import Discovery, DiscoverySettings, Observer, Progress, discover
from hspace.files import autosave
from scripts.comfyui import load_pack

from .common import IMAGE_SIZE, WOMAN, Bench, markdown_table, write_report
from .steering_overhead import in_turn, timed

PREVIEW_EVERY = 50  # the node's default


class _Halfway(Exception):
    pass


class _StopHalfway(Observer):
    """Ends a discovery after half of its steps, and keeps the vector so far."""

    def __init__(self):
        self.vector: UnfinishedVector | None = None

    def step(self, progress: Progress) -> None:
        if progress.step == progress.steps // 2:
            raise _Halfway

    def stopped(self, vector: UnfinishedVector) -> None:
        self.vector = vector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--repeats", type=int, default=5)


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    args.preview_method = LatentPreviewMethod.Auto
    load_pack()
    from hspace_steering.nodes.editor import NodeObserver  # there is no such package before the pack is loaded

    bench = Bench()
    pairs, settings = bench.prompt_pairs(WOMAN), DiscoverySettings("woman", **IMAGE_SIZE)

    def find(**extra) -> Discovery:
        with torch.inference_mode():
            return discover(bench.parts[0], pairs, settings, **extra)

    def with_preview() -> None:
        find(observer=NodeObserver(bench.parts[0], settings.steps, settings.name, PREVIEW_EVERY, None))

    def halfway() -> UnfinishedVector:
        observer = _StopHalfway()
        with contextlib.suppress(_Halfway):
            find(observer=observer)
        return observer.vector

    def resume() -> None:
        find(start_from=halfway())

    discoveries = {"bare": find, "preview every 50 steps": with_preview, "cancelled halfway and resumed": resume}
    seconds = in_turn({name: partial(timed, action) for name, action in discoveries.items()}, options.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [[name, f"{value:.2f}", f"{100 * (value / medians['bare'] - 1):+.1f} %"] for name, value in medians.items()]
    saving, every = seconds_of_a_save(halfway()), autosave.EVERY
    rows.append([f"saving every {every:.0f} s", f"{saving:.4f} a save", f"{100 * saving / every:+.3f} %"])
    text = (
        "# What a discovery costs beside its steps, on the demo model\n\n"
        f"Medians of {options.repeats} whole discoveries each at the node's defaults, taken in turn.\n\n"
        + markdown_table(["discovery", "seconds", "against bare"], rows)
    )
    print(text)
    write_report("discovery_overhead", text)


def seconds_of_a_save(unfinished: UnfinishedVector, times: int = 20) -> float:
    """Median seconds of writing one vector with its optimiser state."""
    with tempfile.TemporaryDirectory() as folder:
        save: Callable[[], object] = partial(save_concept, unfinished, Path(folder) / "partial.safetensors")
        return statistics.median(timed(save) for _ in range(times))
