"""Balanced and independent draws, by property."""

import hashlib
import random

import numpy as np
import pytest

from hspace.concepts.allocation import allocate_balanced, allocate_independent, parse_weights, turns

WEIGHTS = [(1, 1), (1,) * 3, (1,) * 5, (2, 1), (3, 7), (1, 9), (2, 1, 1), (5, 3, 2), (1, 2, 3, 4), (3, 3, 1, 1, 5)]


def _prefix_deviations(drawn: list[int], weights: tuple[int, ...]) -> np.ndarray:
    """Count minus expectation, `[len(drawn) + 1, options]`, after every prefix."""
    counts = np.cumsum(np.eye(len(weights))[drawn], axis=0)
    expected = np.arange(1, len(drawn) + 1)[:, None] * np.array(weights) / sum(weights)
    return np.vstack([np.zeros(len(weights)), counts - expected])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_batch_is_balanced(weights):
    for seed in range(20):
        drawn = allocate_balanced(weights, 2 * sum(weights) + 3, seed)
        assert np.abs(_prefix_deviations(drawn, weights)).max() < 1 - 1e-9
        assert allocate_balanced(weights, 4, seed) == drawn[:4]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_single_images_over_consecutive_seeds_are_balanced(weights):
    period = sum(weights)
    drawn = [allocate_balanced(weights, 1, seed)[0] for seed in range(3 * period)]
    deviations = _prefix_deviations(drawn, weights)
    assert np.abs(deviations).max() < 1 - 1e-9
    every_run = max(np.abs(deviations[start:] - deviations[start]).max() for start in range(period))
    assert every_run < (1 if len(weights) == 2 or len(set(weights)) == 1 else 2) - 1e-9


def test_draws_are_those_of_every_version():
    """Who gets what is promised to stay; a digest of draws of the first version."""
    digest = hashlib.sha256()
    for weights in WEIGHTS:
        for seed in (0, 1, 7, 2**40 + 3):
            for stride in (1, 3):
                count = 3 * sum(weights) + 2
                digest.update(bytes(allocate_balanced(weights, count, seed, stride=stride, salt="one of (a, b)")))
        digest.update(bytes(turns(weights)))
    assert digest.hexdigest().startswith("c1c50bbc187b1b90")


def test_cycle_holds_each_option_as_often_as_it_weighs():
    for _ in range(30):
        weights = tuple(random.choices(range(1, 9), k=random.randint(2, 6)))
        assert np.bincount(turns(weights), minlength=len(weights)).tolist() == list(weights)


def test_order_within_a_batch_depends_on_the_seed():
    assert len({tuple(allocate_balanced((1, 1, 1), 9, seed)) for seed in range(20)}) > 10


def test_allocate_independent_follow_the_weights():
    drawn = np.array([allocate_independent((3, 1), 8, seed) for seed in range(1000)])
    assert abs(drawn.mean() - 0.25) < 0.02
    assert allocate_independent((3, 1), 3, 9) == allocate_independent((3, 1), 8, 9)[:3]


@pytest.mark.parametrize(
    ("text", "options", "weights"),
    [
        ("", 3, (1, 1, 1)),
        ("2,1", 2, (2, 1)),
        (" 0.7, 0.3 ", 2, (7, 3)),
        ("1/3, 2/3", 2, (1, 2)),
        ("4,2,2", 3, (2, 1, 1)),
    ],
)
def test_weights(text, options, weights):
    assert parse_weights(text, options) == weights


@pytest.mark.parametrize("text", ["1", "1,2,3", "a,b", "1,0", "1,-1", "1,1/0", "nan,1", "inf,1", "0.333333,0.666667"])
def test_bad_weights_name_the_input(text):
    with pytest.raises(ValueError, match=r"^weights: "):
        parse_weights(text, 2)
