"""Libraries of concepts on more than one worker: what the engine costs, what a killed worker costs, and where it ends.

Measures builds of demo concepts on 1 and 2 workers and the recovery from a kill; then simulates, by the engine's own
schedule and the measured spread of job times, hundreds of GPUs that this machine lacks. Writes scale.md and .json.
Needs Ray (`requirements-dev.txt`).
"""

from __future__ import annotations

import argparse
import heapq
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hspace_library.checkpoints import fingerprint
from hspace_library.cluster import connected, places_for
from hspace_library.engine import Engine, Listener, Outcome
from hspace_library.jobs import Job, jobs_of
from hspace_library.schedule import Schedule, Task
from hspace_library.spec import Library, Workers

from .common import markdown_table, percent, write_json, write_report

PRESETS = (
    *("woman", "man", "light skin", "medium light skin", "medium skin", "medium dark skin", "dark skin"),
    *("no weapon", "glasses", "smile", "young", "old"),
)
GPUS = (1, 8, 64, 512)
CHECKPOINTS, CONCEPTS = 5, 200
JOB_SECONDS = 60.0
"""Of a discovery on a GPU: assumed, not measured; the spread around it is that of the demo model's."""
CHECKPOINT_BYTES = 4.3e9
"""Of an SD 1.5 file in fp32; SDXL's in fp16 has 6.9e9."""
DISK_RATE, SHARED_RATE = 1.0e9, 10.0e9
"""Bytes a second that one machine reads, and that the disk which all share gives in all: assumed."""
LONG_JOB = 15.0
"""Seconds; the engine may take 2 % of such a job."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--concepts", type=int, default=len(PRESETS), help=f"of the {len(PRESETS)} presets")
    parser.add_argument("--steps", type=int, default=125, help="of each discovery")
    parser.add_argument("--workers", type=int, action="append", help="may be repeated; default: 1 and 2")
    parser.add_argument("--job-seconds", type=float, default=JOB_SECONDS, help="of a job in the simulation")


def run(options: argparse.Namespace) -> None:
    """Measure, simulate, and write the results."""
    builds = []
    with connected("local") as ray, tempfile.TemporaryDirectory() as folder:
        for workers in options.workers or (1, 2):
            builds.append(measure(ray, Path(folder) / str(workers), workers, options))
            print(builds[-1], flush=True)
        recovery = measure_recovery(ray, Path(folder) / "kill", options)
        print(recovery, flush=True)
    overhead = statistics.median(second for build in builds for second in build["overheads"])
    spread = [second / statistics.mean(builds[0]["jobs"]) for second in builds[0]["jobs"]]
    simulated = [
        simulate(gpus, CHECKPOINTS, CONCEPTS, [options.job_seconds * share for share in spread], overhead)
        for gpus in GPUS
    ]
    write_json("scale", [*builds, recovery, *simulated])
    write_report("scale", report(builds, recovery, simulated, overhead, options))


class Clock(Listener):
    """Notes when tasks began and ended, and kills a worker if it is told to.

    Args:
        kill: end the worker of the first task that is half done, as `kill -9` does.
    """

    def __init__(self, kill: bool = False):
        self.kill, self.engine = kill, None
        self.began_at: dict[str, list[float]] = {}
        self.workers: dict[str, str] = {}
        self.killed_at, self.killed = 0.0, ""
        self.goes_on_at = 0.0

    def began(self, task: Task, worker: str) -> None:
        self.began_at.setdefault(task.label, []).append(time.perf_counter())
        self.workers[task.label] = worker

    def progressed(self, task: Task, done: int, of: int) -> None:
        if self.kill and not self.killed and done >= of // 2:
            self.killed, self.killed_at = task.label, time.perf_counter()
            os.kill(self.engine.workers[self.workers[task.label]]["pid"], signal.SIGKILL)
        elif task.label == self.killed and not self.goes_on_at and done:
            self.goes_on_at = time.perf_counter()


def demo_jobs(out: Path, concepts: int, steps: int, save_every: float) -> list[Job]:
    """Jobs of the demo model."""
    library = Library.model_validate(
        {
            "checkpoints": ["demo"],
            "concepts": list(PRESETS[:concepts]),
            "settings": {"steps": steps, "width": 128, "height": 128},
            "workers": {"save_every": save_every},
        }
    )
    (checkpoint,) = library.checkpoints
    out.mkdir(parents=True)
    (out / "mark").touch()
    return jobs_of(library, {checkpoint.path: fingerprint(checkpoint, {})}, out)


def build(ray, jobs: list[Job], out: Path, workers: int, clock: Clock) -> tuple[list[Outcome], float]:
    """Outcomes, and the seconds from the first job's beginning to the end of the last."""
    places = places_for(Workers(count=workers), ray.cluster_resources(), len(jobs), 0)
    engine = clock.engine = Engine(ray, places, str(out / "mark"), 2, clock)
    try:
        outcomes = engine.run([Task("discover", job.checkpoint, job, job.label) for job in jobs])
    finally:
        engine.close()
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        raise SystemExit(failed[0])
    return outcomes, time.perf_counter() - min(times[0] for times in clock.began_at.values())


def measure(ray, out: Path, workers: int, options: argparse.Namespace) -> dict:
    """A build, and what the engine added to its jobs."""
    jobs, clock, began = demo_jobs(out, options.concepts, options.steps, 20.0), Clock(), time.perf_counter()
    outcomes, seconds = build(ray, jobs, out, workers, clock)
    return {
        "workers": workers,
        "seconds": seconds,
        "start": time.perf_counter() - began - seconds,
        "jobs": [outcome.working for outcome in outcomes],
        "loading": [outcome.loading for outcome in outcomes if outcome.loading > 0.1],
        "overheads": [outcome.seconds - outcome.loading - outcome.working for outcome in outcomes],
    }


def measure_recovery(ray, out: Path, options: argparse.Namespace) -> dict:
    """One job, whose worker is killed halfway; what the kill cost."""
    (job,) = demo_jobs(out, 1, options.steps, 1.0)
    clock = Clock(kill=True)
    build(ray, [job], out, 1, clock)
    record = job.record() or {}
    return {
        "noticed": clock.began_at[job.label][1] - clock.killed_at,
        "goes_on": clock.goes_on_at - clock.killed_at,
        "resumed_from": record.get("resumed", 0),
        "steps": options.steps,
    }


@dataclass(order=True)
class Free:
    """A worker that becomes free."""

    at: float
    number: int
    loaded: str | None = None


def simulate(gpus: int, checkpoints: int, concepts: int, seconds: Sequence[float], overhead: float) -> dict:
    """A build on so many workers, by events.

    Tasks are given one after another by a driver that takes `overhead` for each. A checkpoint is read at the rate of a
    machine, and all readers share the disk.
    """
    random = np.random.default_rng(0)
    schedule = Schedule(
        Task("discover", f"c{c}", float(random.choice(seconds)), f"{c}/{i}")
        for c in range(checkpoints)
        for i in range(concepts)
    )
    free = [Free(0.0, number) for number in range(gpus)]
    holders, work, loads, driver, disk, end = Counter(), 0.0, 0, 0.0, 0.0, 0.0
    while len(schedule):
        worker = heapq.heappop(free)
        if worker.loaded:
            holders[worker.loaded] -= 1
        task = schedule.next(worker.loaded, holders)
        driver = begin = max(worker.at, driver) + overhead
        if task.checkpoint != worker.loaded:
            loads += 1
            disk = max(disk, begin) + CHECKPOINT_BYTES / SHARED_RATE
            begin = max(begin + CHECKPOINT_BYTES / DISK_RATE, disk)
        holders[task.checkpoint] += 1
        work += task.payload
        end = max(end, begin + task.payload)
        heapq.heappush(free, Free(begin + task.payload, worker.number, task.checkpoint))
    return {
        "gpus": gpus,
        "seconds": end,
        "utilisation": work / (gpus * end),
        "speed-up": work / end,
        "loads": loads,
        "terabytes": loads * CHECKPOINT_BYTES / 1e12,
        "driver": overhead * checkpoints * concepts / end,
    }


def report(builds: list[dict], recovery: dict, simulated: list[dict], overhead: float, options) -> str:
    """The Markdown page."""
    measured = [
        [
            str(build["workers"]),
            f"{build['seconds']:.1f} s",
            f"{statistics.median(build['jobs']):.1f} s",
            f"{1000 * statistics.median(build['overheads']):.0f} ms",
            f"{build['start']:.1f} s",
        ]
        for build in builds
    ]
    hours = [
        [
            str(row["gpus"]),
            f"{row['seconds'] / 3600:.2f} h" if row["seconds"] >= 3600 else f"{row['seconds'] / 60:.1f} min",
            f"{row['speed-up']:.1f}",
            percent(row["utilisation"]),
            str(row["loads"]),
            f"{row['terabytes']:.2f} TB",
            percent(row["driver"]),
        ]
        for row in simulated
    ]
    return (
        "# Libraries on more than one worker\n\n"
        f"{options.concepts} concepts of the demo model, {options.steps} steps each, a thread a worker. The run could "
        f"use {_cores()} core(s), which {os.getloadavg()[2]:.1f} processes shared in its last 15 minutes.\n\n"
        + markdown_table(["workers", "all jobs", "a job", "the engine adds to a job", "start of workers"], measured)
        + f"\nOf a job of {LONG_JOB:g} s the engine takes {percent(overhead / LONG_JOB)}.\n\n"
        f"A worker that is killed halfway (`kill -9`): its job is given to another after {recovery['noticed']:.1f} s, "
        f"and takes its next step after {recovery['goes_on']:.1f} s, nearly all of it the start of a new one; it goes "
        f"on from step {recovery['resumed_from']} of {recovery['steps']}.\n\n"
        "## Simulation\n\n"
        f"{CONCEPTS} concepts on {CHECKPOINTS} checkpoints by the engine's own schedule. Assumed: "
        f"{options.job_seconds:g} s a job with the spread measured above, checkpoints of "
        f"{CHECKPOINT_BYTES / 1e9:g} GB, disks that give a machine {DISK_RATE / 1e9:g} GB/s and all of them "
        f"{SHARED_RATE / 1e9:g} GB/s. Measured: what the engine adds to a job, taken as if its one driver were busy "
        "all that time.\n\n"
        + markdown_table(
            ["GPUs", "all jobs", "speed-up", "utilisation", "checkpoints read", "bytes moved", "driver busy"], hours
        )
        + f"\n{_where_it_ends(simulated)}\n"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _where_it_ends(simulated: list[dict]) -> str:
    """The first number of GPUs that are used by less than nine tenths."""
    for row in simulated:
        if row["utilisation"] < 0.9:
            jobs = CHECKPOINTS * CONCEPTS / row["gpus"]
            return (
                f"Scaling ends at about {row['gpus']} GPUs, where there are {jobs:.1f} jobs for each: workers wait for "
                "the last ones, and each still reads a checkpoint before its first."
            )
    return "Scaling does not end here."
