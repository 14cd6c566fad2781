"""Figures of the evaluations with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats

from hspace.viewing.balance import deviation_ratio

BOOTSTRAPS = 1000


def deviation_of(classes: Sequence[int] | np.ndarray, count: int) -> float:
    """Deviation ratio of the classes `[images]` that images show, of `count` there are."""
    return deviation_ratio(np.bincount(np.asarray(classes), minlength=count).tolist())


def mean_deviation(groups: Sequence[Sequence[int] | np.ndarray], count: int) -> tuple[float, float, float]:
    """Mean deviation ratio over groups of classes, with its 95 % interval.

    1.96 standard errors to each side, by bootstrap of the images within groups. Not the quantiles of the bootstrap: a
    resampled group is less even than the group itself, so those of an even one lie above its own value.
    """

    def mean(*samples) -> float:
        return float(np.mean([deviation_of(sample, count) for sample in samples]))

    samples = [np.asarray(group) for group in groups]
    centre = mean(*samples)
    if min(map(len, samples)) < 2:
        return centre, 0.0, 1.0  # one image says nothing of its spread
    bootstrap = scipy.stats.bootstrap(
        samples, mean, n_resamples=BOOTSTRAPS, vectorized=False, method="percentile", rng=np.random.default_rng(0)
    )
    half = 1.96 * float(bootstrap.standard_error)
    return centre, max(0.0, centre - half), min(1.0, centre + half)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    interval = scipy.stats.binomtest(successes, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
