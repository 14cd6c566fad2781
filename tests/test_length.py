"""How long a discovered vector is made: as its concept asks for, but no longer than images bear."""

import math

import pytest
import torch

from helpers import conditioning, tiny_model
from hspace.discovery import DiscoverySettings, PromptPairs, discover, length
from hspace.discovery.addition import Addition
from hspace.discovery.image_judge import ImageJudge
from hspace.discovery.length import SOUND, sound_length

FAST = {"steps": 16, "batch_size": 4, "learning_rate": 3.0, "width": 64, "height": 64}


class Worse:
    """A judge to whom images get worse by a power of the length."""

    def __init__(self, breaks_at, power):
        self.breaks_at, self.power, self.lengths = breaks_at, power, []

    def losses(self, add):
        self.lengths.append(add.constants[0].item())
        return self.lengths[-1]

    def relative(self, length):
        return 1 + (SOUND - 1) * (length / self.breaks_at) ** self.power


@pytest.mark.parametrize("wanted", [0.4, 1.0, 1.6])
@pytest.mark.parametrize("power", [1, 2, 4, 8])
def test_as_long_as_wanted_or_as_images_bear(wanted, power):
    judge = Worse(0.9, power)
    found = sound_length(judge, Addition({0: torch.ones(1, 1, 1)}), wanted)
    if wanted < 0.9:
        assert (found, judge.lengths) == (wanted, [pytest.approx(wanted)])
    else:
        assert 0.75 <= found <= 0.9 + 1e-6
        assert len(judge.lengths) == 2


def test_of_lengths_that_break_every_image_the_sound_part_is_kept():
    assert 0 < sound_length(Worse(0.01, 2), Addition({0: torch.ones(1, 1, 1)}), 1.6) <= 0.01 + 1e-6


def test_images_that_are_not_numbers_are_broken_ones():
    judge = ImageJudge(None, (4, 8, 8), 0, 8, torch.device("cpu"), lambda: None)
    judge.unsteered = torch.ones(8), torch.ones(8)
    assert judge.relative((torch.full((8,), math.nan), torch.full((8,), math.nan))) == math.inf
    learnt = Addition({0: torch.ones(1, 1, 1)})
    judge = Worse(0.9, 2)
    judge.relative = lambda length: math.inf if length > 1 else 1.2
    assert sound_length(judge, learnt, 1.6) == pytest.approx(0.8)
    judge.relative = lambda length: math.inf
    with pytest.raises(FloatingPointError, match="bf16"):
        sound_length(judge, learnt, 1.6)


def find(**changes):
    pairs = PromptPairs(conditioning(1), conditioning(2))
    with torch.inference_mode():
        return discover(tiny_model(), pairs, DiscoverySettings("test", **{**FAST, **changes}))


@pytest.mark.parametrize("bound", [1.0001, 1e6])
def test_a_calibrated_vector_stops_where_images_do_not_bear_it(bound, monkeypatch):
    monkeypatch.setattr(length, "SOUND", bound)
    raw, calibrated = find(calibrate=False), find()
    scale = calibrated.vector.provenance.scale
    assert raw.vector.provenance.scale == 1
    assert scale < 1 if bound < 2 else scale > 1
    for site, tensor in calibrated.vector.tensors.items():
        torch.testing.assert_close(tensor, scale * raw.vector.tensors[site])
    for site, response in calibrated.vector.responses.items():
        torch.testing.assert_close(response.up, scale * raw.vector.responses[site].up)
    assert calibrated.vector.responses
    assert calibrated.evaluations - raw.evaluations == (3 if bound < 2 else 2) * 8 * (10 * 2 + 3 * 2)


def test_constants_alone_are_not_looked_at():
    raw, calibrated = find(calibrate=False, response_rank=0), find(response_rank=0)
    assert calibrated.evaluations == raw.evaluations
    assert calibrated.vector.provenance.scale > 1
