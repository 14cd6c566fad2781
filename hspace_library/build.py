"""`hspace-library build library.yaml --out DIR`: find every concept of a specification on every checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from hspace.files.writing import check_folder

from .checkpoints import bytes_of, check_checkpoint, fingerprint
from .cluster import connected, places_for
from .console import ProgressListener, in_words
from .discovering import write_json
from .engine import Engine
from .jobs import Job, State, jobs_of, read_json
from .report import write_reports
from .schedule import Task
from .spec import Library, read_library

MARK = ".library.json"
"""File in the library: fingerprints of checkpoints, so that none is read twice; workers look for it."""
ROOM_OF_JOB = 12 * 2**20
"""Bytes of a vector of SDXL with its optimiser's state, and of its pictures."""


def build(spec: Path, out: Path, address: str, dry_run: bool, console: Console) -> int:
    """Build a library; what is there already is kept.

    Returns:
        How many jobs failed.

    Raises:
        ValueError: something is wrong that can be known before anything long begins, or the disk is full.
    """
    library = read_library(spec)
    faults = _faults(library)
    if faults:
        raise ValueError("\n".join(faults))
    out = out.expanduser().resolve()
    known = (read_json(out / MARK) or {}).get("fingerprints", {})
    fingerprints = {one.path: fingerprint(one, known) for one in library.checkpoints}
    jobs = jobs_of(library, fingerprints, out)
    states = [job.state() for job in jobs]
    to_do = [job for job, state in zip(jobs, states, strict=True) if state is not State.FINISHED]
    _print_plan(jobs, states, console)
    if dry_run:
        return 0
    _check_room(out, len(to_do))
    write_json(out / MARK, {"fingerprints": known})
    errors: dict[str, str] = {}
    try:
        if to_do:
            _run(library, to_do, out, address, console, errors)
    finally:
        write_reports(out, jobs, errors)
    console.print(
        f"{len(jobs) - len(errors)} of {len(jobs)} concepts are in {out}; report.html shows them.", soft_wrap=True
    )
    return len(errors)


def _faults(library: Library) -> list[str]:
    """What is wrong with the checkpoints, a line each."""
    faults = []
    for checkpoint in library.checkpoints:
        try:
            check_checkpoint(checkpoint)
        except ValueError as error:
            faults.append(str(error))
    return faults


def _print_plan(jobs: list[Job], states: list[State], console: Console) -> None:
    """A line a job, and what is to be done in all."""
    left, evaluations = 0, 0
    for job, state in zip(jobs, states, strict=True):
        console.print(f"{job.label}: {state.value}", markup=False, highlight=False, soft_wrap=True)
        left += state is not State.FINISHED
        evaluations += 0 if state in (State.FINISHED, State.PICTURES) else job.evaluations()
    console.print(f"{left} of {len(jobs)} jobs to do, about {evaluations:,} U-Net evaluations.", highlight=False)


def _check_room(out: Path, jobs: int) -> None:
    """Raise ValueError where nothing can be written to the folder, or too little."""
    try:
        check_folder(out)
    except OSError as error:
        raise ValueError(f"--out: {error.strerror}") from error
    free, needed = shutil.disk_usage(out).free, jobs * ROOM_OF_JOB
    if free < needed:
        raise ValueError(
            f"--out: {free / 2**20:,.0f} MiB are free on the disk of {out}, and {jobs} jobs may take "
            f"{needed / 2**20:,.0f} MiB. Make room, or choose another disk; what is finished stays."
        )


def _run(library: Library, jobs: list[Job], out: Path, address: str, console: Console, errors: dict[str, str]) -> None:
    tasks = [Task("discover", job.checkpoint, job, job.label, job.evaluations()) for job in jobs]
    largest = max(bytes_of(one) for one in library.checkpoints)
    with connected(address) as ray:
        places = places_for(library.workers, ray.cluster_resources(), len(tasks), largest)
        console.print(f"{places.in_words()}.", highlight=False)
        with ProgressListener(console, tasks) as listener:
            engine = Engine(ray, places, str(out / MARK), library.workers.retries, listener)
            try:
                outcomes = engine.run(tasks)
            finally:
                engine.close()
    errors |= {outcome.task.label: outcome.error for outcome in outcomes if outcome.error}
    seconds = sum(outcome.seconds for outcome in outcomes)
    console.print(f"{len(outcomes)} jobs took {in_words(seconds)} of workers' time.", highlight=False)
