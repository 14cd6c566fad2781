"""Kill servers (-9), each at a random moment of a discovery, and go on from what each has left, in a new one.

Autosaves come every second rather than every 20, so that a discovery of a minute has many.
"""

from __future__ import annotations

import random
import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import torch

from hspace.files import load_concept
from scripts.comfy_server import running_server

from .common import markdown_table, write_json, write_report
from .endurance import discover_and_apply

LONGEST = 12.0
"""Seconds after the first autosave."""
SAVE_OFTEN = """
import sys
import threading
import time

def save_often():
    while not (found := [module for name, module in sys.modules.items() if name.endswith("hspace.files.autosave")]):
        time.sleep(0.1)
    found[0].EVERY = 1.0

threading.Thread(target=save_often, daemon=True).start()
NODE_CLASS_MAPPINGS = {}
"""


@dataclass(frozen=True)
class Crash:
    """A discovery whose server was killed.

    Attributes:
        seconds: after its first autosave.
        steps: in the partial file.
        age: seconds from the last save to the kill.
        same: whether the resumed run ended with the bits and losses of an undisturbed one.
    """

    seconds: float
    steps: int
    age: float
    same: bool


def add_arguments(parser: ArgumentParser) -> None:
    """Those of this benchmark."""
    parser.add_argument("--kills", type=int, default=10)


def run(options: Namespace) -> None:
    """Kill, resume, compare, report."""
    rng, crashes = random.Random(1), []
    with tempfile.TemporaryDirectory(prefix="hspace-models-") as folder:
        models = Path(folder)
        whole = _finished(models, "whole")
        for number in range(options.kills):
            crash, partial = _killed(models, rng.uniform(0, LONGEST))
            resumed = _finished(models, f"resumed_{number}", f"partial/{partial.name}")
            alike = resumed.provenance.final_loss == whole.provenance.final_loss
            crashes.append(Crash(*crash, alike and torch.equal(resumed.tensor, whole.tensor)))
            print(crashes[-1], flush=True)
            partial.unlink()
    write_json("crashes", [vars(crash) for crash in crashes])
    columns = ["killed after", "steps in the file", "age of the file", "resumed to the same bits"]
    rows = [[f"{c.seconds:.1f} s", str(c.steps), f"{c.age:.1f} s", "yes" if c.same else "no"] for c in crashes]
    write_report("crashes", f"# Servers killed while they discover\n\n{markdown_table(columns, rows)}")


def _killed(models: Path, seconds: float) -> tuple[tuple[float, int, float], Path]:
    """Kill a server so long after its first autosave; what `Crash` says of it, and the file that it leaves."""
    folder = models / "concept_vectors" / "partial"
    with running_server(prepare=_save_often, models=models) as server:
        server.queue(_discovery("killed"))
        while not list(folder.glob("*.safetensors")):
            time.sleep(0.05)
        time.sleep(seconds)
        server.process.kill()
        at = time.time()
        server.process.wait()
    (partial,) = folder.glob("*.safetensors")
    return (seconds, load_concept(partial).provenance.steps or 0, at - partial.stat().st_mtime), partial


def _finished(models: Path, name: str, start_from: str | None = None):
    """The vector of a discovery that nobody disturbs."""
    with running_server(prepare=_save_often, models=models) as server:
        server.run(_discovery(name, start_from))
    return load_concept(models / "concept_vectors" / f"{name}.safetensors")


def _save_often(base: Path) -> None:
    (base / "custom_nodes" / "save_often.py").write_text(SAVE_OFTEN)


def _discovery(name: str, start_from: str | None = None) -> dict:
    """A prompt of half a minute that saves its vector under a name."""
    prompt = discover_and_apply(0)
    prompt["discover"]["inputs"] |= {"steps": 100, "batch_size": 2, "sample_count": 6}
    if start_from is not None:
        prompt["start"] = {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": start_from}}
        prompt["discover"]["inputs"]["start_from"] = ["start", 0]
    save = {"concept": ["discover", 0], "filename_prefix": name}
    kept = {key: prompt[key] for key in ("demo", "pairs", "discover", "start") if key in prompt}
    return {**kept, "save": {"class_type": "HSpaceSaveConcept", "inputs": save}}
