"""A server under load: hundreds of runs one after the other, then many clients and cancels at once.

Runs of discovering and steering, one after the other: does memory grow, do files or tensors stay behind? Then prompts
of several clients at once over HTTP and websockets, some of them cancelled: does each that was accepted end, with the
same pixels as alone, and with no error in the log? A Linux machine is needed, for the figures of /proc.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import statistics
import uuid
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from scripts.comfy_server import Server, running_server

from .common import markdown_table, write_json, write_report

WARM_UP = 0.2
"""Share of the runs before memory is compared: ComfyUI fills its caches."""
PROBE = """
import gc
import torch
class CountTensors:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"run": ("INT", {"default": 0})}}
    def run(self, run):
        gc.collect()
        return {"ui": {"tensors": [sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())]}}
NODE_CLASS_MAPPINGS = {"CountTensors": CountTensors}
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Those of this benchmark."""
    parser.add_argument("--runs", type=int, default=300, help="one after the other")
    parser.add_argument("--prompts", type=int, default=500, help="of all clients together")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--cancelled", type=float, default=0.1, help="share of the prompts")


def run(options: Namespace) -> None:
    """Both parts, and their report."""
    with running_server(prepare=_add_probe) as server:
        usage = asyncio.run(in_a_row(server, options.runs))
    with running_server() as server:
        load = asyncio.run(at_once(server, options.prompts, options.clients, options.cancelled))
        errors = unexpected_errors(server.log.read_text())
    write_json("endurance", [vars(usage), {**vars(load), "errors": errors}])
    write_report("endurance", report(usage, load, errors))


@dataclass(frozen=True)
class Usage:
    """What a server holds after the warm-up and at the end: resident bytes, open files, tensors."""

    runs: int
    bytes_before: int
    bytes_after: int
    files_before: int
    files_after: int
    tensors_before: int
    tensors_after: int

    @property
    def growth(self) -> float:
        """Of resident memory, as a share."""
        return self.bytes_after / self.bytes_before - 1


@dataclass(frozen=True)
class Load:
    """What became of the prompts of several clients at once."""

    clients: int
    prompts: int
    accepted: int
    succeeded: int
    interrupted: int
    removed: int
    failed: int
    never_ended: int
    differing: int


async def in_a_row(server: Server, runs: int) -> Usage:
    """Discover, steer and sample `runs` times, every time with another seed."""
    figures: list[tuple[int, int, int]] = []
    async with _Client(server) as client:
        for number in range(runs):
            outputs = await client.result(await client.queue(discover_and_apply(number)))
            if outputs["status"]["status_str"] != "success":
                raise RuntimeError(f"Run {number} failed: {outputs['status']['messages'][-1]}")
            counted = await client.result(await client.queue(_count(number)))
            tensors = counted["outputs"]["count"]["tensors"][0]
            figures.append((_resident(server), _open_files(server), tensors))
    # Medians of a tenth of the runs: the allocator gives memory back in its own time.
    warm, tenth = int(runs * WARM_UP), max(1, runs // 10)
    before, after = figures[warm : warm + tenth], figures[-tenth:]
    pairs = [[int(statistics.median(column)) for column in zip(*part, strict=True)] for part in (before, after)]
    return Usage(runs, *(value for pair in zip(*pairs, strict=True) for value in pair))


async def at_once(server: Server, prompts: int, clients: int, cancelled: float) -> Load:
    """Prompts of several kinds and seeds from several clients; images are compared with those of each prompt alone."""
    kinds = [_steer, _choose, _sweep, discover_and_apply]
    rng = random.Random(0)
    jobs = [(rng.randrange(len(kinds)), rng.randrange(5), rng.random() < cancelled) for _ in range(prompts)]
    async with _Client(server) as client:
        alone = {}
        for kind, seed in sorted({job[:2] for job in jobs}):
            entry = await client.result(await client.queue(kinds[kind](seed)))
            alone[kind, seed] = _digest(server, entry)
    ends: Counter[str] = Counter()

    async def work(share: list[tuple[int, int, bool]]) -> None:
        async with _Client(server) as client:
            for kind, seed, cancel in share:
                prompt = kinds[kind](seed)
                prompt["save"]["inputs"]["filename_prefix"] = uuid.uuid4().hex  # or ComfyUI would not run it again
                number = await client.queue(prompt)
                ends["accepted"] += 1
                if cancel:
                    await asyncio.sleep(rng.random())
                    await client.cancel(number)
                entry = await client.result(number)
                if entry is None:
                    ends["removed" if cancel else "never_ended"] += 1
                    continue
                messages = {name for name, _ in entry["status"]["messages"]}
                if "execution_interrupted" in messages:
                    ends["interrupted"] += 1
                elif entry["status"]["status_str"] != "success":
                    ends["failed"] += 1
                else:
                    ends["succeeded"] += 1
                    ends["differing"] += _digest(server, entry) != alone[kind, seed]

    await asyncio.gather(*(work(jobs[start::clients]) for start in range(clients)))
    names = ("accepted", "succeeded", "interrupted", "removed", "failed", "never_ended", "differing")
    return Load(clients, prompts, *(ends[name] for name in names))


class _Client:
    """One client of a server, with a websocket of its own."""

    def __init__(self, server: Server):
        self.server, self.id = server, uuid.uuid4().hex

    async def __aenter__(self) -> _Client:
        self.session = aiohttp.ClientSession()
        self.socket = await self.session.ws_connect(f"{self.server.url}/ws?clientId={self.id}", max_msg_size=0)
        self.listening = asyncio.create_task(self._drain())
        return self

    async def __aexit__(self, *_) -> None:
        self.listening.cancel()
        await self.session.close()

    async def _drain(self) -> None:
        async for _ in self.socket:
            pass

    async def queue(self, prompt: dict) -> str:
        async with self.session.post(
            f"{self.server.url}/prompt", json={"prompt": prompt, "client_id": self.id}
        ) as answer:
            answer.raise_for_status()
            return (await answer.json())["prompt_id"]

    async def cancel(self, number: str) -> None:
        """Take it from the queue, or interrupt it where it runs."""
        await self.session.post(f"{self.server.url}/queue", json={"delete": [number]})
        async with self.session.get(f"{self.server.url}/queue") as answer:
            running = (await answer.json())["queue_running"]
        if any(entry[1] == number for entry in running):
            await self.session.post(f"{self.server.url}/interrupt", json={"prompt_id": number})

    async def result(self, number: str) -> dict | None:
        """The prompt's entry in the history; None where it was taken from the queue, or nothing came within minutes."""
        for attempt in range(12_000):
            async with self.session.get(f"{self.server.url}/history/{number}") as answer:
                entry = (await answer.json()).get(number)
            if entry is not None:
                return entry
            if attempt % 20 == 19 and not await self._queued(number):
                async with self.session.get(f"{self.server.url}/history/{number}") as answer:
                    return (await answer.json()).get(number)
            await asyncio.sleep(0.05)
        return None

    async def _queued(self, number: str) -> bool:
        async with self.session.get(f"{self.server.url}/queue") as answer:
            queue = await answer.json()
        return any(entry[1] == number for part in queue.values() for entry in part)


def _add_probe(base: Path) -> None:
    (base / "custom_nodes" / "count_tensors.py").write_text(PROBE)


def _count(number: int) -> dict:
    return {"count": {"class_type": "CountTensors", "inputs": {"run": number}}}


def _sampling(seed: int, concept: list, images: int = 2) -> dict:
    """Four coarse steps of the demo model, steered by a concept."""
    text = {"clip": ["demo", 1]}
    return {
        "demo": {"class_type": "HSpaceLoadDemoModel", "inputs": {}},
        "positive": {"class_type": "CLIPTextEncode", "inputs": {**text, "text": "a judge"}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {**text, "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": images}},
        "apply": {
            "class_type": "HSpaceApplySteering",
            "inputs": {
                "model": ["demo", 0],
                "concept": concept,
                "strength": 1.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
                "apply_to": "positive",
            },
        },
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["apply", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                "seed": seed,
                "steps": 4,
                "cfg": 4.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["demo", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "endurance"}},
    }


def _vector(name: str) -> dict:
    return {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": f"emoji_{name}.safetensors"}}


def _steer(seed: int) -> dict:
    return {**_sampling(seed, ["woman", 0]), "woman": _vector("woman")}


def _choose(seed: int) -> dict:
    choice = {"concept_1": ["woman", 0], "concept_2": ["man", 0], "weights": "1,1", "seed": seed, "mode": "balanced"}
    return {
        **_sampling(seed, ["choice", 0]),
        "woman": _vector("woman"),
        "man": _vector("man"),
        "choice": {"class_type": "HSpaceChooseConcept", "inputs": choice},
    }


def _sweep(seed: int) -> dict:
    sweep = {"concept": ["woman", 0], "from": 0.0, "to": 1.0}
    return {
        **_sampling(seed, ["sweep", 0]),
        "woman": _vector("woman"),
        "sweep": {"class_type": "HSpaceSweepConcept", "inputs": sweep},
    }


def discover_and_apply(seed: int) -> dict:
    return {
        **_sampling(seed, ["discover", 0], images=1),
        "pairs": {
            "class_type": "HSpaceConceptPrompts",
            "inputs": {
                "clip": ["demo", 1],
                "with_concept": "",
                "without": "",
                "subjects": "",
                "avoid": "",
                "shared": "",
                "preset": "woman",
            },
        },
        "discover": {
            "class_type": "HSpaceDiscoverConcept",
            "inputs": {
                "model": ["demo", 0],
                "concept": ["pairs", 0],
                "base": ["pairs", 1],
                "empty": ["pairs", 3],
                "name": "woman",
                "method": "distilled",
                "steps": 3,
                "batch_size": 1,
                "learning_rate": 0.1,
                "guidance": 3.0,
                "sample_count": 1,
                "width": 128,
                "height": 128,
                "seed": seed,
            },
        },
    }


def _digest(server: Server, entry: dict) -> str:
    """Of the pixels of all images of a prompt."""
    from PIL import Image

    digest = hashlib.sha256()
    for output in entry["outputs"].values():
        for image in output.get("images", []):
            with Image.open(server.output / image["subfolder"] / image["filename"]) as opened:
                digest.update(opened.tobytes())
    return digest.hexdigest()


def _resident(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def _open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def unexpected_errors(log: str) -> list[str]:
    """Lines of a server's log that tell of an error."""
    return [line for line in log.splitlines() if re.search(r"\b(?:Error|Exception|Traceback)\b|!!!", line)]


def report(usage: Usage, load: Load, errors: list[str]) -> str:
    """The page."""
    mebi = 2**20
    rows = [
        ["resident memory", f"{usage.bytes_before / mebi:.0f} MiB", f"{usage.bytes_after / mebi:.0f} MiB"],
        ["open files", str(usage.files_before), str(usage.files_after)],
        ["tensors", str(usage.tensors_before), str(usage.tensors_after)],
    ]
    ends = [[name.replace("_", " "), str(getattr(load, name))] for name in vars(load)]
    ends.append(["errors in the log", str(len(errors))])
    return (
        "# Endurance\n\n"
        f"{usage.runs} runs of discovering and steering, one after the other; medians of a tenth of the runs.\n\n"
        + markdown_table(["", f"after {WARM_UP:.0%} of the runs", "at the end"], rows)
        + f"\nResident memory grew by {usage.growth:.2%}.\n\n"
        + f"{load.prompts} prompts of {load.clients} clients, some cancelled in the queue or while they ran:\n\n"
        + markdown_table(["", "prompts"], ends)
    )
