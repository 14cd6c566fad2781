"""Run tasks on Ray actors that keep their checkpoint loaded, and try again where one dies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .cluster import Places
from .schedule import Schedule, Task
from .worker import Worker, first_line

POLL, POLL_EACH = 0.5, 0.02
"""Seconds from one look at the workers' progress to the next: at least, and for each worker."""
STOP_WITHIN = 60.0
"""Seconds that workers have to keep what they are at, where a run is cancelled."""


class Listener:
    """Hears what happens to tasks; does nothing by itself."""

    def began(self, task: Task, worker: str) -> None:
        """A worker has taken the task."""

    def progressed(self, task: Task, done: int, of: int) -> None:
        """So many of the task's steps are done."""

    def ended(self, outcome: Outcome) -> None:
        """The task is done, or has failed for good."""

    def said(self, text: str) -> None:
        """A line for the user."""


@dataclass
class Outcome:
    """What became of a task.

    Attributes:
        result: of the worker; None where the task failed.
        error: why it failed; "" where it did not.
        attempts: how often it was begun.
        seconds: from the beginning of the last attempt to its end, as the engine saw it.
        loading, working: seconds that the worker took to load the checkpoint, and for the rest.
    """

    task: Task
    result: dict | None = None
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    loading: float = 0.0
    working: float = 0.0


@dataclass
class _Handle:
    """A worker as the engine sees it; `waits_for` is its call in progress."""

    actor: Any
    name: str
    waits_for: Any
    task: Task | None = None
    loaded: str | None = None
    began: float = 0.0
    asked: Any = None
    about: dict = field(default_factory=dict)


class Engine:
    """A run of tasks.

    Args:
        ray: the module, connected.
        places: what the workers are.
        shared: a file that every worker must see.
        retries: how often a task is tried again.
        listener: hears of it.
    """

    def __init__(self, ray, places: Places, shared: str, retries: int, listener: Listener):
        self.ray, self.places, self.shared = ray, places, shared
        self.retries, self.listener = retries, listener
        decorate = ray.remote(concurrency_groups={"watch": 1})
        self._actor_class = decorate(_watched(ray))
        self._handles: list[_Handle] = []
        self._made = 0
        self.loads: dict[str, int] = {}

    @property
    def workers(self) -> dict[str, dict]:
        """Process, machine and device of the workers that have begun, by name."""
        return {handle.name: handle.about for handle in self._handles if handle.about}

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Do all tasks; outcomes in the order in which tasks ended.

        Raises:
            ValueError: workers cannot begin, or the disk is full; what is done is kept, and workers have stopped.
            KeyboardInterrupt: the user's; likewise.
        """
        schedule, attempts, outcomes = Schedule(tasks), Counter(), []
        try:
            while len(self._handles) < min(self.places.count, max(1, len(tasks))):
                self._hire()
            self._loop(schedule, attempts, outcomes)
        except BaseException:
            self._stop_all()
            raise
        return outcomes

    def close(self) -> None:
        """End the workers."""
        for handle in self._handles:
            self.ray.kill(handle.actor)
        self._handles.clear()

    def _loop(self, schedule: Schedule, attempts: Counter, outcomes: list[Outcome]) -> None:
        polled = time.monotonic()
        while schedule or any(handle.task for handle in self._handles):
            for handle in self._handles:
                if handle.waits_for is None:
                    self._give(handle, schedule, attempts)
            waiting = {handle.waits_for: handle for handle in self._handles if handle.waits_for is not None}
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=POLL)
            for reference in ready:
                self._take(waiting[reference], schedule, attempts, outcomes)
            if time.monotonic() - polled >= max(POLL, POLL_EACH * len(self._handles)):
                polled = time.monotonic()
                self._look()

    def _hire(self) -> None:
        self._made += 1
        actor = self._actor_class.options(**self.places.options()).remote()
        begun = actor.begin.remote(self.places.threads, self.shared)
        self._handles.append(_Handle(actor, f"worker {self._made}", begun))

    def _give(self, handle: _Handle, schedule: Schedule, attempts: Counter) -> None:
        others = Counter(other.loaded for other in self._handles if other is not handle and other.loaded)
        task = schedule.next(handle.loaded, others)
        if task is None:
            return
        attempts[task.label] += 1
        handle.task, handle.loaded, handle.began = task, task.checkpoint, time.perf_counter()
        handle.waits_for = handle.actor.run.remote(task.kind, task.checkpoint, task.payload)
        self.listener.began(task, handle.name)

    def _take(self, handle: _Handle, schedule: Schedule, attempts: Counter, outcomes: list[Outcome]) -> None:
        """What a worker's call gave."""
        task, handle.task = handle.task, None
        try:
            answer = self.ray.get(handle.waits_for)
        except self.ray.exceptions.RayError as error:
            self._bury(handle, error)
            answer = {"error": f"its worker died ({first_line(error).rstrip('.')})", "again": True}
        handle.waits_for = None
        if task is None:  # it has begun
            if "error" in answer:
                raise ValueError(answer["error"])
            handle.about = answer
            return
        seconds, tries = time.perf_counter() - handle.began, attempts[task.label]
        if "result" in answer:
            self.loads[handle.name] = answer["loads"]
            outcome = Outcome(task, answer["result"], "", tries, seconds, answer["loading"], answer["working"])
        elif answer.get("full"):
            raise ValueError(f"{task.label}: {answer['error']}")
        elif answer.get("again") and tries <= self.retries:
            self.listener.said(f"{task.label}: {answer['error']}; it is tried again.")
            schedule.again(task)
            return
        else:
            outcome = Outcome(task, None, answer["error"], tries, seconds)
        outcomes.append(outcome)
        self.listener.ended(outcome)

    def _bury(self, handle: _Handle, error: Exception) -> None:
        """Let a dead worker go, and take another on; one that died before it began would die again."""
        self._handles.remove(handle)
        with suppress(Exception):
            self.ray.kill(handle.actor)
        if handle.about:
            self._hire()
            return
        text = f"Workers cannot start: {first_line(error).rstrip('.')}"
        if not self._handles:
            raise ValueError(text)
        self.listener.said(text)

    def _look(self) -> None:
        """Tell the listener how far tasks are; a worker that is busy answers when it can."""
        for handle in self._handles:
            if handle.task is None:
                continue
            if handle.asked is None:
                handle.asked = handle.actor.progress.remote(), handle.task
            (ready, _), task = self.ray.wait([handle.asked[0]], timeout=0), handle.asked[1]
            if not ready:
                continue
            with suppress(self.ray.exceptions.RayError):
                done, of = self.ray.get(ready[0])
                if of and task is handle.task:
                    self.listener.progressed(task, done, of)
            handle.asked = None

    def _stop_all(self) -> None:
        """Ask busy workers to keep what they have, and end all."""
        busy = [handle for handle in self._handles if handle.task is not None and handle.waits_for is not None]
        with suppress(Exception):
            for handle in busy:
                handle.actor.stop.remote()
            if busy:
                self.listener.said("Stopping; what is unfinished is kept.")
                references = [handle.waits_for for handle in busy]
                self.ray.wait(references, num_returns=len(references), timeout=STOP_WITHIN)
        self.close()


def _watched(ray) -> type:
    """`Worker` with methods that are answered while a task runs."""

    class RemoteWorker(Worker):
        progress = ray.method(concurrency_group="watch")(Worker.progress)
        stop = ray.method(concurrency_group="watch")(Worker.stop)

    return RemoteWorker
