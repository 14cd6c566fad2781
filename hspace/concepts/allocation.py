"""Options allocated to images, balanced or independently, from weights and a seed.

All sequences are consistent under prefixes: the option of image b does not depend on how many images follow it. So a
graph can say who gets what before it knows the batch size.
"""

from __future__ import annotations

import hashlib
import itertools
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm

import numpy as np

MAX_PERIOD = 10_000


def parse_weights(text: str, options: int) -> tuple[int, ...]:
    """Whole-number weights without a common divisor from a list such as "2,1" or "0.7, 0.3"; empty is uniform.

    Raises:
        ValueError: not one positive number for each option, or numbers too fine to balance.
    """
    if not text.strip():
        return (1,) * options
    try:
        shares = [Fraction(part.strip()) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"weights: '{text}' is not a list of numbers. Write for instance '2,1'.") from None
    if len(shares) != options:
        raise ValueError(
            f"weights: {len(shares)} numbers for {options} connected concepts. Give one number for each, or leave "
            f"it empty."
        )
    if min(shares) <= 0:
        raise ValueError(
            f"weights: every number must be above 0, found '{text}'. Disconnect concepts that nobody should get."
        )
    scale = lcm(*(share.denominator for share in shares))
    whole = [int(share * scale) for share in shares]
    divisor = gcd(*whole)
    weights = tuple(number // divisor for number in whole)
    if sum(weights) > MAX_PERIOD:
        raise ValueError(
            f"weights: '{text}' repeats only after {sum(weights)} images; use rounder numbers, such as '0.7,0.3'."
        )
    return weights


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
        options += _random_period(weights, rng, first)
    return options[:count]


def allocate_independent(weights: tuple[int, ...], count: int, seed: int, *, salt: str = "") -> list[int]:
    """Options of `count` images, each on its own with probability `weights / sum(weights)`."""
    thresholds = np.cumsum(weights) / sum(weights)
    uniform = _generator("independent", seed, salt).random(count)
    return np.searchsorted(thresholds, uniform, side="right").clip(max=len(weights) - 1).tolist()


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
    counts, order = [0] * len(weights), []
    for n in range(1, period + 1):
        due = [
            (-(-(done + 1) * period // weight), index)
            for index, (done, weight) in enumerate(zip(counts, weights, strict=True))
            if done * period < n * weight
        ]
        _, option = min(due)
        counts[option] += 1
        order.append(option)
    return tuple(order)


def _random_period(weights: tuple[int, ...], rng: np.random.Generator, first: int | None) -> list[int]:
    """One period in random order, every prefix balanced; `first` is the option it begins with, if given."""
    period = sum(weights)
    due_by = np.arange(period + 1)[:, None] * np.array(weights) // period  # turns due by the end of each step
    counts, order = np.zeros(len(weights), dtype=np.int64), []
    for n in range(1, period + 1):
        if first is not None and n == 1:
            options = [first]
        else:
            come = [i for i, weight in enumerate(weights) if counts[i] * period < n * weight]
            options = [i for i in come if _stays_feasible(due_by[n:], counts, i)]
        shares = np.array([weights[i] for i in options], dtype=float)
        option = int(rng.choice(options, p=shares / shares.sum()))
        counts[option] += 1
        order.append(option)
    return order


def _stays_feasible(due_by: np.ndarray, counts: np.ndarray, option: int) -> bool:
    """True where all turns can still be given in time after `option` is served now; row d: turns due within d more
    steps.
    """
    after = counts.copy()
    after[option] += 1
    missing = np.maximum(due_by - after, 0).sum(axis=1)
    return bool((missing <= np.arange(len(due_by))).all())


def _generator(kind: str, seed: int, salt: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{kind}|{seed}|{salt}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
