"""Run one target on many inputs and collect what is not as promised."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import random
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

LONGEST = 1.0
"""Seconds of processor time for one input."""
MEMORY = 300 * 10**6
"""Bytes by which the process may grow."""
LONGEST_MESSAGE = 700
CURES = frozenset(
    {
        "again",
        "allow",
        "choose",
        "connect",
        "correct",
        "disconnect",
        "discover",
        "download",
        "find",
        "give",
        "lower",
        "needed",
    }
    | {"put", "remove", "rename", "resume", "save", "set", "shorten", "update", "use", "write"}
)
"""Words of which a message has one that says what to do."""
MAX_FAULTS = 20


@dataclass(frozen=True)
class Target:
    """Something that reads what strangers wrote.

    Args:
        name: for the command line and the report.
        make: an input from a source of random numbers.
        read: reads it; may raise ValueError with a cure, and nothing else.
        share: of the inputs or of the time, relative to other targets; less for what is slow.
    """

    name: str
    make: Callable[[random.Random], object]
    read: Callable[[object], object]
    share: float = 1.0


@dataclass
class Result:
    """What came of a target's inputs.

    Attributes:
        accepted, refused: numbers of inputs.
        slowest: seconds of processor time of the slowest.
        growth: bytes by which the process grew at most.
        faults: number of the input, and what is wrong.
    """

    target: str
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    growth: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        line = (
            f"{self.target}: {self.accepted + self.refused:,} inputs in {self.seconds:.0f} s, {self.accepted:,} "
            f"accepted, {self.refused:,} refused, {len(self.faults)} faults; slowest {1000 * self.slowest:.0f} ms, "
            f"memory grew by {self.growth / 1e6:.0f} MB"
        )
        return "\n".join([line, *(f"  input {number}: {fault}" for number, fault in self.faults)])


def run(
    target: Target,
    seed: int,
    count: int | None = None,
    seconds: float | None = None,
    numbers: Iterable[int] | None = None,
    hangs_after: float | None = None,
) -> Result:
    """Read inputs until there were `count`, `seconds` are over, `numbers` are done, or there are too many faults.

    An input depends on target, seed and number alone.
    """
    result, began = Result(target.name), time.monotonic()
    for number in range(20):  # what is imported and cached at the first use is no growth
        attempt(target, target.make(source_of(target, seed, number)))
    for number in numbers if numbers is not None else itertools.count():
        if (count is not None and number >= count and numbers is None) or len(result.faults) >= MAX_FAULTS:
            break
        if seconds is not None and time.monotonic() - began > seconds:
            break
        if hangs_after is not None and number % 100 == 0:
            faulthandler.dump_traceback_later(hangs_after, exit=True)
        value = target.make(source_of(target, seed, number))
        before, started = begin_peak(), time.process_time()
        refused, fault = attempt(target, value)
        took = time.process_time() - started
        result.accepted, result.refused = result.accepted + (not refused), result.refused + refused
        result.slowest, result.growth = max(result.slowest, took), max(result.growth, peak_memory() - before)
        if took > LONGEST:
            fault = f"took {took:.1f} s"
        if result.growth > MEMORY:
            fault, result.growth = f"memory grew by {result.growth / 1e6:.0f} MB", 0
        if fault:
            result.faults.append((number, fault))
    faulthandler.cancel_dump_traceback_later()
    result.seconds = time.monotonic() - began
    return result


def attempt(target: Target, value: object) -> tuple[bool, str]:
    """Read one input: whether it was refused, and what is wrong with how; "" if nothing."""
    try:
        target.read(value)
    except ValueError as error:
        return True, "" if type(error) is ValueError and has_cure(str(error)) else described(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return True, described(error)
    return False, ""


def has_cure(message: str) -> bool:
    """True for one short line that says what to do."""
    words = re.findall("[a-z]+", message.lower())
    return "\n" not in message and len(message) <= LONGEST_MESSAGE and bool(CURES & set(words))


def described(error: BaseException) -> str:
    """An exception and where it was raised, shortened."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
    return f"{type(error).__name__} at {place}: {ascii(str(error))[:300]}"


def source_of(target: Target, seed: int, number: int) -> random.Random:
    """The random numbers that an input is made from."""
    return random.Random(f"{target.name}|{seed}|{number}")


def begin_peak() -> int:
    """Begin to measure `peak_memory` anew, where the system can, and return it as it is."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """The most bytes that the process has had in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
