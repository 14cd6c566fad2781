"""What images are dealt from a seed: options, balanced or independently by weights, and numbers.

All sequences are consistent under prefixes: what image b gets does not depend on how many images follow it. So a
graph can say who gets what before it knows the batch size.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

import numpy as np

from .quoting import quoted

MAX_PERIOD = 10_000
LONGEST_NUMBER, LARGEST_EXPONENT = 100, 999
"""Characters and power of ten of one weight: enough for every share that can be balanced, and read in no time."""
_EXPONENT = re.compile(r"e[+-]?[0_]*([\d_]*)\Z", re.IGNORECASE)


def parse_weights(text: str, options: int) -> tuple[int, ...]:
    """Whole-number weights without a common divisor from a list such as "2,1" or "0.7, 0.3"; empty is uniform.

    Raises:
        ValueError: not one positive number for each option, or numbers too fine to balance.
    """
    if not text.strip():
        return (1,) * options
    count, shown = text.count(",") + 1, quoted(text, LONGEST_NUMBER)
    if count != options:
        raise ValueError(
            f"weights: {count} numbers for {options} connected concepts. Give one number for each, or leave it empty."
        )
    shares = [_share(part.strip()) for part in text.split(",")]
    if None in shares:
        raise ValueError(f"weights: {shown} is not a list of numbers. Write for instance '2,1'.")
    weights = [share for share in shares if share is not None and share > 0]
    if len(weights) < options:
        raise ValueError(
            f"weights: every number must be above 0, found {shown}. Disconnect concepts that nobody should get."
        )
    scale = lcm(*(share.denominator for share in weights))
    whole = [int(share * scale) for share in weights]
    divisor = gcd(*whole)
    period = sum(whole) // divisor
    if period > MAX_PERIOD:
        raise ValueError(
            f"weights: {shown} repeats only after {period if period < 10**15 else 'more than 10^15'} images; use "
            "rounder numbers, such as '0.7,0.3'."
        )
    return tuple(number // divisor for number in whole)


def _share(text: str) -> Fraction | None:
    """The number that a text stands for; None where it stands for none, or for one that only takes time to read."""
    exponent = _EXPONENT.search(text)
    if len(text) > LONGEST_NUMBER or (exponent and len(exponent[1]) > len(str(LARGEST_EXPONENT))):
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def allocate_balanced(weights: tuple[int, ...], count: int, seed: int, *, stride: int = 1, salt: str = "") -> list[int]:
    """Options of `count` images: after every image, each option's count is within one of what its weight promises.

    Image 0 takes turn `seed // stride` of a fixed cycle, so single images with consecutive seeds are balanced as well:
    in every run of consecutive seeds for two options or equal weights, in every run from seed 0 (within two elsewhere)
    for three or more options with unequal weights, for which no sequence can do better in general. The images after it
    follow in a random order given by seed and `salt`, so two choices in one sum are independent of each other.

    Args:
        weights: positive integers; shares are `weights / sum(weights)`.
        stride: how many consecutive seeds share one turn; a sum gives its second choice the first one's cycle length,
            as the wheels of an odometer, so that single images see every combination.
    """
    rng, period = _generator("balanced", seed, salt), sum(weights)
    options: list[int] = []
    while len(options) < count:
        first = turns(weights)[seed // stride % period] if not options else None
        options += _random_steps(weights, min(period, count - len(options)), rng, first)
    return options


def allocate_independent(weights: tuple[int, ...], count: int, seed: int, *, salt: str = "") -> list[int]:
    """Options of `count` images, each on its own with probability `weights / sum(weights)`."""
    thresholds = np.cumsum(weights) / sum(weights)
    uniform = _generator("independent", seed, salt).random(count)
    return np.searchsorted(thresholds, uniform, side="right").clip(max=len(weights) - 1).tolist()


def draw_uniform(count: int, seed: int, salt: str = "") -> list[float]:
    """A number in [0, 1) for each of `count` images, each on its own."""
    return _generator("uniform", seed, salt).random(count).tolist()


@lru_cache(maxsize=64)
def turns(weights: tuple[int, ...]) -> tuple[int, ...]:
    """One period of the fixed cycle: the option whose next turn is due first, among those whose turn has come.

    This is earliest-deadline-first scheduling of the windows of Baruah et al. (Proportionate Progress, 1996), which
    solves Tijdeman's chairman assignment problem (1980). With two options it is the rounding (Sturmian) sequence.
    """
    period = sum(weights)
    if len(weights) == 2:
        steps = [-(-n * weights[0] // period) for n in range(period + 1)]
        return tuple(0 if after > before else 1 for before, after in itertools.pairwise(steps))
    coming: dict[int, list[tuple[int, int]]] = {}  # by step: (step by whose end the turn is due, option)
    for option, weight in enumerate(weights):
        for done in range(weight):
            coming.setdefault(done * period // weight + 1, []).append((-(-(done + 1) * period // weight), option))
    waiting, order = [], []
    for step in range(1, period + 1):
        for turn in coming.get(step, ()):
            heapq.heappush(waiting, turn)
        order.append(heapq.heappop(waiting)[1])
    return tuple(order)


def _random_steps(weights: tuple[int, ...], steps: int, rng: np.random.Generator, first: int | None) -> list[int]:
    """The first steps of a period in random order, every prefix balanced; `first` is the option to begin with."""
    period = sum(weights)
    counts, order = [0] * len(weights), []
    for n in range(1, steps + 1):
        if first is not None and n == 1:
            options = [first]
        else:
            come = [i for i, weight in enumerate(weights) if counts[i] * period < n * weight]
            options = [i for i in come if _stays_feasible(weights, n, counts, i)]
        shares = np.array([weights[i] for i in options], dtype=float)
        option = int(rng.choice(options, p=shares / shares.sum()))
        counts[option] += 1
        order.append(option)
    return order


def _stays_feasible(weights: tuple[int, ...], n: int, counts: list[int], option: int) -> bool:
    """True where all turns can still be given in time after step n serves `option`.

    By the end of step m, `m * weight // period` turns of each option are due, which is m less the `_leeway` of m in
    all. An option that is ahead, by one turn and never more, stays so until that turn is due; so in time is the same
    as: at no step are more options ahead than there is leeway.
    """
    period = sum(weights)
    after = [count + (index == option) for index, count in enumerate(counts)]
    until = sorted(
        -(-count * period // weight)
        for count, weight in zip(after, weights, strict=True)
        if count > n * weight // period
    )
    too_little = _too_little_leeway(weights)
    step = n
    for ahead, end in zip(range(len(until), 0, -1), until, strict=True):
        if too_little[ahead - 1][step] < end:
            return False
        step = end
    return True


@lru_cache(maxsize=64)
def _too_little_leeway(weights: tuple[int, ...]) -> list[np.ndarray]:
    """For 1, 2 ... options ahead, by step: the next step, itself included, whose leeway is less than that.

    The leeway of step m is m less the turns that are due by its end, the sum of the fractional parts of all shares.
    """
    period = sum(weights)
    steps = np.arange(period + 1)
    leeway = steps - (steps[:, None] * np.array(weights) // period).sum(axis=1)
    return [
        np.minimum.accumulate(np.where(leeway < ahead, steps, period + 1)[::-1])[::-1].astype(np.int16)
        for ahead in range(1, len(weights) + 1)
    ]


def _generator(kind: str, seed: int, salt: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{kind}|{seed}|{salt}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
