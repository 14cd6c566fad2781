"""Every shipped workflow on whole checkpoint files: does it run to its end, how long does it take, how much memory?

Random weights, so the images are noise: SD 1.5 and SDXL at full size and 512 x 512, SD 2.1 with v-prediction and an
inpainting model with few layers. The files are written first (12 GB), and loaded by Load Checkpoint in a real server.
Vectors are discovered and saved on each checkpoint, under the names that the workflows load. A rerun goes on where the
last one stopped. A Linux machine is needed, for the memory.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from scripts.comfy_server import Server, running_server

from .common import ROOT, markdown_table, read_json, store, write_report

CHECKPOINT = "random.safetensors"
VECTORS = {
    "emoji_woman": ("a woman", "a person"),
    "emoji_man": ("a man", "a person"),
    "emoji_dark_skin": ("a person with dark skin", "a person"),
    "emoji_light_skin": ("a person with light skin", "a person"),
    "emoji_no_weapon": ("a person", "a person with a weapon"),
}
"""Names that the workflows load, with the prompts of a discovery: with the concept, and without it."""
DISCOVERIES = "the vectors that the others load"
NAMES = (DISCOVERIES, *sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
DISCOVER = {"steps": 2, "batch_size": 1, "sample_count": 1, "measure_range": False, "preview_every": 0}
"""Measuring the range takes 1,250 evaluations and the preview 40, however few the steps: hours on one core."""
SAMPLING_STEPS = 2
HALF = ("--bf16-unet", "--bf16-vae", "--bf16-text-enc", "--use-pytorch-cross-attention")
TO_THE_END, STOPPED = "to the end", "stopped at the time limit"
OUTPUTS = {"SaveImage", "PreviewImage", "PreviewAny", "HSpaceSaveConcept"}


@dataclass(frozen=True)
class Setup:
    """How a checkpoint is run.

    Attributes:
        size: side of the images in pixels.
        options: of the server.
        checkpointing: of gradients, in Discover.
    """

    size: int
    options: tuple[str, ...] = ()
    checkpointing: bool = False


SETUPS = {
    "SD 1.5": Setup(512, HALF),
    "SDXL": Setup(512, HALF, checkpointing=True),
    "SD 2.1 v reduced": Setup(64),
    "SD 1.5 inpainting reduced": Setup(64),
}
"""By kind of `scripts.random_checkpoint`."""


def add_arguments(parser: ArgumentParser) -> None:
    """Those of this benchmark."""
    parser.add_argument("--kinds", nargs="+", choices=SETUPS, default=list(SETUPS), metavar="KIND")
    parser.add_argument("--workflows", nargs="+", choices=NAMES, default=list(NAMES), metavar="WORKFLOW")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "full_size", help="of checkpoints and vectors")
    parser.add_argument("--minutes", type=float, default=15, help="for one workflow")


def run(options: Namespace) -> None:
    """Whatever has no result yet, and the report on all."""
    for kind in options.kinds:
        models = options.folder.resolve() / kind.lower().replace(" ", "_")
        while left := _left(kind, options.workflows):
            _write_checkpoint(kind, models / "checkpoints" / CHECKPOINT)
            with running_server(SETUPS[kind].options, models=models) as server:
                for name in left:
                    row = measured(server, kind, name, 60 * options.minutes)
                    print(row, flush=True)
                    store("full_size", [row], _key)
                    if row["outcome"] == STOPPED:
                        break  # this server is still busy with it
    write_report("full_size", report(read_json("full_size")))


def _left(kind: str, wanted: list[str]) -> list[str]:
    done = {row["workflow"] for row in read_json("full_size") if row["kind"] == kind}
    return [name for name in NAMES if name in wanted and name not in done]


def _key(row: dict) -> tuple[int, int]:
    return list(SETUPS).index(row["kind"]), NAMES.index(row["workflow"])


def _write_checkpoint(kind: str, path: Path) -> None:
    """In a process of its own, whose memory is free again before the server starts."""
    if not path.exists():
        command = [sys.executable, "-m", "scripts.random_checkpoint", kind, str(path)]
        subprocess.run(command, cwd=ROOT, check=True)


def measured(server: Server, kind: str, name: str, seconds: float) -> dict:
    """The row of one workflow: how it ended, seconds, those of the processor, and the server's peak memory in bytes."""
    prompt = discoveries(SETUPS[kind]) if name == DISCOVERIES else workflow(server, kind, name)
    status = Path(f"/proc/{server.process.pid}")
    (status / "clear_refs").write_text("5")  # the peak begins anew
    began, processor, outcome = time.perf_counter(), _processor_seconds(server), TO_THE_END
    try:
        outputs = server.run(prompt, timeout=seconds)
        if silent := [node for node, entry in prompt.items() if entry["class_type"] in OUTPUTS and node not in outputs]:
            outcome = f"failed: nothing came from {', '.join(prompt[node]['class_type'] for node in silent)}"
    except RuntimeError as error:
        outcome = STOPPED if "did not finish" in str(error) else f"failed: {error}"
    peak = re.search(r"VmHWM:\s+(\d+) kB", (status / "status").read_text())
    return {
        "kind": kind,
        "workflow": name,
        "outcome": outcome,
        "seconds": time.perf_counter() - began,
        "processor_seconds": _processor_seconds(server) - processor,
        "peak_bytes": 1024 * int(peak[1]) if peak else 0,
    }


def _processor_seconds(server: Server) -> float:
    """All that the server took so far, of all its threads."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def workflow(server: Server, kind: str, name: str) -> dict:
    """The prompt of a workflow file, on the checkpoint and at the fewest steps."""
    prompt = server.convert(ROOT / "workflows" / f"{name}.json")
    setup = SETUPS[kind]
    changes = {
        "EmptyLatentImage": {"width": setup.size, "height": setup.size, "batch_size": 1},
        # A seed of its own, so that nothing comes from the server's cache.
        "KSampler": {"steps": SAMPLING_STEPS, "seed": NAMES.index(name)},
        "HSpaceDiscoverConcept": _discover(setup, setup.size),
    }
    for node in prompt.values():
        if node["class_type"] == "HSpaceLoadDemoModel":
            node.update(_loader())
        node["inputs"].update(changes.get(node["class_type"], {}))
    return prompt


def discoveries(setup: Setup) -> dict:
    """Discover and Save for each of `VECTORS`, on small images: one value a channel fits every size."""
    prompt = {"model": _loader()}
    for name, sides in VECTORS.items():
        for side, text in zip(("concept", "base"), sides, strict=True):
            inputs = {"clip": ["model", 1], "text": text}
            prompt[f"{name} {side}"] = {"class_type": "CLIPTextEncode", "inputs": inputs}
        inputs = {
            "model": ["model", 0],
            "concept": [f"{name} concept", 0],
            "base": [f"{name} base", 0],
            "name": name,
            "method": "distilled",
            "learning_rate": 0.1,
            "guidance": 2.0,
            "seed": 0,
            **_discover(setup, max(64, setup.size // 4)),
        }
        prompt[name] = {"class_type": "HSpaceDiscoverConcept", "inputs": inputs}
        save = {"concept": [name, 0], "filename_prefix": name}
        prompt[f"save {name}"] = {"class_type": "HSpaceSaveConcept", "inputs": save}
    return prompt


def _discover(setup: Setup, side: int) -> dict:
    return {**DISCOVER, "width": side, "height": side, "gradient_checkpointing": setup.checkpointing}


def _loader() -> dict:
    return {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}}


def report(rows: list[dict]) -> str:
    """The page."""
    lines = [
        [
            row["kind"],
            row["workflow"].replace("_", " "),
            row["outcome"],
            f"{row['processor_seconds']:.0f} s",
            f"{row['seconds']:.0f} s",
            f"{row['peak_bytes'] / 1e9:.1f} GB",
        ]
        for row in rows
    ]
    return (
        "# Whole checkpoints\n\n"
        "Files in fp16 with random weights, loaded by Load Checkpoint in a real server. Each workflow as shipped but "
        f"for its loader, one image, {SAMPLING_STEPS} sampling steps, and in Discover {DISCOVER['steps']} steps on one "
        "image, without measure_range and preview; the vectors that the others load are found on images a quarter as "
        "wide. SD 1.5 and SDXL: full size, 512 x 512, bfloat16, torch's attention, SDXL with gradient checkpointing. "
        "The reduced ones have fewer layers: 64 x 64, float32 as ComfyUI chooses. Peak memory is the server's resident "
        "memory, pages of the mapped file among it. The first row of each checkpoint also loads it. Processor time is "
        "that of all threads, and other work on the machine does not add to it.\n\n"
        + markdown_table(["checkpoint", "workflow", "ran", "processor time", "time", "peak memory"], lines)
    )
