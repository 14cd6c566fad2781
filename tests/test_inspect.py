"""Inspect Concept Vector: measures of vectors whose answers are known."""

import pytest
import torch

from helpers import random_vector, run_node
from hspace.concepts import NOTHING, Choice, Sweep, Vector
from hspace.viewing.inspection import compare_concepts, inspect_concept, inspection_report
from hspace.viewing.plots import inspection_picture

WHITE = random_vector((512, 8, 8), name="noise")
CONSTANT = Vector(
    torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(1)).expand(64, 8, 8), "flat", "TinyModel"
)
NO_MAP = random_vector((64, 1, 1), name="no map")


def wave(cycles: int) -> Vector:
    """Stripes of so many cycles over eight pixels."""
    stripes = torch.cos(2 * torch.pi * cycles * torch.arange(8) / 8).expand(64, 8, 8)
    return Vector(stripes, "wave", "TinyModel")


def test_white_noise_is_flat():
    inspection = inspect_concept(WHITE)
    frequencies, power = inspection.spectrum
    assert frequencies[0] == 0
    assert frequencies[-1] == pytest.approx(0.5 * 2**0.5)
    torch.testing.assert_close(power, torch.ones_like(power), atol=0.15, rtol=0)
    assert inspection.mean_share == pytest.approx(1 / 64, rel=0.15)
    assert inspection.low_share == pytest.approx(inspection.low_share_of_noise, rel=0.1)
    assert inspection.low_share_of_noise == 13 / 64
    assert inspection.noise_ceiling > 0.85
    assert inspection.rms == pytest.approx(1, abs=0.02)
    assert inspection.norm == pytest.approx((512 * 64) ** 0.5, rel=0.02)


def test_a_constant_map_is_all_mean():
    inspection = inspect_concept(CONSTANT)
    assert inspection.mean_share == pytest.approx(1)
    assert inspection.low_share == pytest.approx(1)
    assert inspection.noise_ceiling == pytest.approx(0, abs=1e-5)
    assert inspection.spectrum[1][0] == pytest.approx(64)  # all of 64 pixels' power in one


@pytest.mark.parametrize(("cycles", "low"), [(1, 1), (2, 1), (3, 0), (4, 0)])
def test_a_wave_is_found_at_its_frequency(cycles, low):
    inspection = inspect_concept(wave(cycles))
    frequencies, power = inspection.spectrum
    # A ring also takes in diagonal waves of nearly its radius, whose frequencies its mean counts.
    assert frequencies[power.argmax()] == pytest.approx(cycles / 8, abs=0.03)
    assert inspection.mean_share == pytest.approx(0, abs=1e-5)
    assert inspection.low_share == pytest.approx(low, abs=1e-5)


def test_power_is_kept_on_maps_that_are_not_square():
    inspection = inspect_concept(random_vector((16, 5, 12)))
    assert inspection.spectrum[1].isfinite().all()
    assert inspection.energy_map.sum().item() == pytest.approx(inspection.norm**2, rel=1e-5)
    assert inspection.channel_norms.square().sum().item() == pytest.approx(inspection.norm**2, rel=1e-5)


def test_a_vector_against_itself_and_its_opposite():
    same, opposite = compare_concepts(WHITE, WHITE), compare_concepts(WHITE, -2 * WHITE)
    assert (same.cosine, same.mean_cosine, same.relative_norm) == pytest.approx((1, 1, 1))
    assert (opposite.cosine, opposite.mean_cosine, opposite.relative_norm) == pytest.approx((-1, -1, 0.5))
    torch.testing.assert_close(opposite.cosine_map, -torch.ones(8, 8))
    assert abs(compare_concepts(WHITE, random_vector((512, 8, 8), seed=1)).cosine) < 0.02


@pytest.mark.parametrize("flipped", [False, True])
def test_maps_of_different_sizes_are_compared(flipped):
    small = Vector(CONSTANT.tensor[:, :4, :4], "small", "TinyModel")
    pair = (small, CONSTANT) if flipped else (CONSTANT, small)
    comparison = compare_concepts(*pair)
    assert comparison.cosine_map.shape == pair[0].tensor.shape[1:]
    assert (comparison.cosine, comparison.relative_norm) == pytest.approx((1, 1))


@pytest.mark.parametrize("pair", [(NO_MAP, WHITE), (WHITE, NO_MAP)])
def test_a_vector_without_a_map_takes_the_other_ones_size(pair):
    pair = [Vector(item.tensor[:64], item.name, item.family) for item in pair]
    assert compare_concepts(*pair).cosine_map.shape == (8, 8)


@pytest.mark.parametrize(
    "other", [random_vector((64, 8, 8), family="SD1", name="b"), random_vector((32, 8, 8), name="b")]
)
def test_vectors_of_different_models_are_named(other):
    with pytest.raises(ValueError, match=r"compare: 'b' is for .*, but 'flat' is for TinyModel \(64 channels\)"):
        compare_concepts(CONSTANT, other)


def test_nothing_cannot_be_inspected():
    with pytest.raises(ValueError, match="concept: there is no vector"):
        inspect_concept(NOTHING)


def test_expressions_are_inspected_where_they_steer_most():
    a, b = random_vector(name="a"), random_vector(name="b", seed=1)
    torch.testing.assert_close(inspect_concept(a + -0.5 * b).tensor, a.tensor - 0.5 * b.tensor)
    torch.testing.assert_close(inspect_concept(Sweep(a, 0.0, 2.0)).tensor, 2 * a.tensor)
    chosen = inspect_concept(Choice((a, b), (1, 1))).tensor
    assert any(torch.equal(chosen, option.tensor) for option in (a, b))
    torch.testing.assert_close(inspect_concept(CONSTANT + NO_MAP).tensor, CONSTANT.tensor + NO_MAP.tensor)


def test_report_says_how_it_was_found():
    found = random_vector(
        name="woman", base_model="SD1:abc", concept_prompt="a woman\njudge", steps="300", extra="hidden"
    )
    report = inspection_report(found)
    for line in ("woman", "base model: SD1:abc", "shape: 64 x 8 x 8", "concept_prompt: a woman judge", "steps: 300"):
        assert line in report.splitlines()
    assert "hidden" not in report
    assert "seed:" not in report
    long = inspection_report(random_vector(concept_prompt="word " * 1000))
    assert max(map(len, long.splitlines())) < 250


def test_report_says_how_far_strength_1_goes():
    report = inspection_report(random_vector(reach="1.6", scale="0.5"))
    assert "reach at strength 1: 0.80 of what the concept prompt itself changes" in report
    assert "reach" not in inspection_report(random_vector(reach="far", scale="1"))


def test_report_tells_the_measured_strengths():
    both = inspection_report(random_vector(strength_saturates="0.5", strength_breaks="1.25"))
    assert "measured: the concept is there from strength 0.5 on, images begin to break at 1.25" in both
    assert "measured: images begin to break at 2" in inspection_report(random_vector(strength_breaks="2"))
    for nonsense in ("nan", "-1", "inf", "much", ""):
        assert "measured" not in inspection_report(random_vector(strength_saturates=nonsense))


def test_report_lists_the_parts_of_an_expression():
    report = inspection_report(2 * random_vector(name="a") + -1 * random_vector(name="b", seed=1), WHITE_64)
    assert {"a x 2", "b x -1"} <= set(report.splitlines())
    assert "compared with c" in report


WHITE_64 = random_vector(name="c", seed=3)


def test_zeros_are_said_to_be_zeros():
    zeros = random_vector() + -1 * random_vector()
    assert "steers nothing" in inspection_report(zeros, random_vector())
    assert inspection_picture(inspect_concept(zeros)).isfinite().all()
    assert compare_concepts(zeros, random_vector()).cosine == 0


@pytest.mark.parametrize(
    "concept", [WHITE, CONSTANT, NO_MAP, random_vector((16, 5, 12)), random_vector(name="$x_{ of $y" * 9)]
)
def test_picture(concept):
    _check_picture(inspection_picture(inspect_concept(concept)), 1024)


@pytest.mark.parametrize("pair", [(CONSTANT, WHITE_64), (NO_MAP, CONSTANT), (NO_MAP, NO_MAP)])
def test_picture_of_two(pair):
    _check_picture(inspection_picture(inspect_concept(pair[0]), compare_concepts(*pair)), 1364)


def test_node():
    report, picture = run_node("HSpaceInspectConcept", concept=CONSTANT)
    assert "100.0%" in report
    _check_picture(picture, 1024)
    report, picture = run_node("HSpaceInspectConcept", concept=CONSTANT, compare=-1 * CONSTANT)
    assert "cosine: -1.000 (of the spatial means: -1.000)" in report
    _check_picture(picture, 1364)


def _check_picture(image, width):
    assert image.shape == (1, 512, width, 3)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < 0.5 < image.max() <= 1
    assert image.std() > 0.1
