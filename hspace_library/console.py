"""What a run shows on the console: a line a finished task, and while it runs a bar a task and the time that is left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .engine import Listener, Outcome
from .schedule import Task


class ProgressListener(Listener):
    """Shows the progress of a run; a context manager.

    Args:
        console: to write on.
        tasks: all of them.
    """

    def __init__(self, console: Console, tasks: list[Task]):
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._sizes = {task.label: task.size for task in tasks}
        self._all = self.bars.add_task("all", total=len(tasks), left="")
        self._bars: dict[str, int] = {}
        self._began, self._done = time.monotonic(), 0.0

    def __enter__(self) -> ProgressListener:
        self.bars.start()
        return self

    def __exit__(self, *_) -> None:
        self.bars.stop()

    def began(self, task: Task, worker: str) -> None:
        if task.label in self._bars:
            self.bars.remove_task(self._bars.pop(task.label))
        self._bars[task.label] = self.bars.add_task(f"{escape(task.label)} ({worker})", total=None, left="")

    def progressed(self, task: Task, done: int, of: int) -> None:
        if task.label in self._bars:
            self.bars.update(self._bars[task.label], total=of, completed=done)

    def ended(self, outcome: Outcome) -> None:
        label = outcome.task.label
        if label in self._bars:
            self.bars.remove_task(self._bars.pop(label))
        self._done += self._sizes.get(label, 0)
        self.bars.update(self._all, advance=1, left=self._left())
        what = f"[red]failed[/]: {escape(outcome.error)}" if outcome.error else f"{outcome.seconds:.1f} s"
        again = f", attempt {outcome.attempts}" if outcome.attempts > 1 else ""
        self.console.print(f"{escape(label)}: {what}{again}", highlight=False, soft_wrap=True)

    def said(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def _left(self) -> str:
        total = sum(self._sizes.values())
        if not self._done or self._done >= total:
            return ""
        return f"{in_words((time.monotonic() - self._began) * (total / self._done - 1))} left"


def in_words(seconds: float) -> str:
    """ "3 h 20 min", "2 min 5 s", "14 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
