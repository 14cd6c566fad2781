"""What preview, resuming and saving now and then add to a discovery: the demo model, whole discoveries in turn.

`run_module.py benchmarks.discovery_overhead` writes benchmarks/results/discovery_overhead.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from comfy.cli_args import LatentPreviewMethod, args

from ..hspace import autosave
from ..hspace.discovery import discover
from ..hspace.learner import ADAM_STATE
from ..hspace.monitor import ProgressMonitor
from ..hspace.settings import DiscoverySettings
from ..hspace.vector_file import save_direction
from .common import RESULTS, WOMAN, Bench, markdown_table

PREVIEW_EVERY = 50  # the node's default


class _Halfway(Exception):
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    args.preview_method = LatentPreviewMethod.Auto
    bench = Bench()
    concept, base = bench.conditioning(WOMAN.concept), bench.conditioning(WOMAN.base)
    settings = DiscoverySettings("woman", width=128, height=128)

    def find(**extra):
        with torch.inference_mode():
            return discover(bench.parts[0], concept, base, settings, **extra)

    def previewed() -> None:
        find(listener=ProgressMonitor(bench.parts[0], settings.steps), compare_every=PREVIEW_EVERY)

    def resumed() -> None:
        kept = []

        def stop(progress) -> None:
            if progress.step == settings.steps // 2:
                raise _Halfway

        try:
            find(listener=stop, keep_partial=kept.append)
        except _Halfway:
            find(start_from=kept[0])

    runs = {"bare": find, "preview every 50 steps": previewed, "cancelled halfway and resumed": resumed}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.repeats):
        for name in list(runs) if turn % 2 else list(runs)[::-1]:
            began = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [[name, f"{value:.2f}", f"{100 * (value / medians['bare'] - 1):+.1f} %"] for name, value in medians.items()]
    saving = seconds_of_a_save(find().direction)
    rows.append(
        [f"saving every {autosave.EVERY:.0f} s", f"{saving:.4f} a save", f"{100 * saving / autosave.EVERY:+.3f} %"]
    )
    text = (
        "# What a discovery costs beside its steps, on the demo model\n\n"
        f"Medians of {options.repeats} whole discoveries each at the node's defaults, taken in turn on {torch.get_num_threads()} "
        "CPU threads.\n\n" + markdown_table(["discovery", "seconds", "against bare"], rows)
    )
    print(text)
    (RESULTS / "discovery_overhead.md").write_text(text)


def seconds_of_a_save(direction, times: int = 20) -> float:
    """Median seconds of writing one vector with its optimiser state."""
    moments = {key: direction.tensor.clone() for key in ADAM_STATE}
    state = {**moments, "step": torch.tensor(1.0)}
    direction = type(direction)(direction.tensor, direction.name, direction.family, direction.metadata, state)
    values = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(times):
            began = time.perf_counter()
            save_direction(direction, Path(folder) / "partial.safetensors")
            values.append(time.perf_counter() - began)
    return statistics.median(values)


if __name__ == "__main__":
    main()
