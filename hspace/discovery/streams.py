"""Named streams of random numbers, each a function of the seed alone, so that a resumed run continues them."""

from __future__ import annotations

from enum import IntEnum

import torch


class Stream(IntEnum):
    """The purposes of random numbers. The values are part of a seed's meaning and never change."""

    PAIR_ORDER = 1
    ROLL_OUT_START = 2
    NOISED_SAMPLES = 3
    SAMPLE_IMAGES = 4
    RANGE_IMAGES = 5
    RANGE_JUDGEMENT = 6
    EPOCHS = 7
    START = 8
    RESPONSE_START = 9


def generator(seed: int, stream: int, *place: int) -> torch.Generator:
    """A generator on the CPU for one place (a step, say) of a stream.

    The mixing is a linear congruential step a number rather than `numpy.random.SeedSequence`, which would change the
    vector that a seed gives.
    """
    for number in (stream, *place):
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)
