"""Which task a free worker does next: one for the checkpoint that it has loaded, if any is left."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """Something for a worker to do.

    Attributes:
        kind: see `Worker.run`.
        checkpoint: what the worker must have loaded.
        payload: the job or the row.
        label: what people call it.
        size: U-Net evaluations that it is expected to take.
    """

    kind: str
    checkpoint: str
    payload: Any
    label: str
    size: float = 1.0


class Schedule:
    """The tasks that wait, by checkpoint, in the order in which they were given."""

    def __init__(self, tasks: Iterable[Task]):
        self._waiting: dict[str, deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(task.checkpoint, deque()).append(task)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self):
        return (task for tasks in self._waiting.values() for task in tasks)

    def again(self, task: Task) -> None:
        """Put a task back, before all others of its checkpoint."""
        self._waiting.setdefault(task.checkpoint, deque()).appendleft(task)

    def next(self, loaded: str | None, holders: Counter[str]) -> Task | None:
        """Take the task for a free worker; None where none waits.

        A worker stays with its checkpoint. One that has none, or whose checkpoint has no tasks left, goes where most
        tasks wait for each worker that is there, so that checkpoints are loaded as rarely as workers allow.

        Args:
            loaded: checkpoint that the worker has.
            holders: how many other workers have each.
        """
        if not self._waiting:
            return None
        if loaded not in self._waiting:
            loaded = max(self._waiting, key=lambda name: len(self._waiting[name]) / (1 + holders[name]))
        tasks = self._waiting[loaded]
        task = tasks.popleft()
        if not tasks:
            del self._waiting[loaded]
        return task
