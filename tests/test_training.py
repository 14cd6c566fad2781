"""The training code of the demo model: deterministic, and resumable without a trace. Data come from no network here."""

import random

import torch

from demo.architecture import UNET_CONFIG
from demo.captions import PROFESSIONS, random_person
from demo.training.common import held_out, uniform_person
from demo.training.latents import ARMED_VARIANTS, UNARMED_VARIANTS
from demo.training.train_unet import train


def test_resumed_training_equals_an_uninterrupted_one(tmp_path):
    shape = (3, len(PROFESSIONS), 2, 5, UNARMED_VARIANTS + ARMED_VARIANTS, 4, 16, 16)
    weights = []
    for name, stops in (("whole", [4]), ("resumed", [2, 4])):
        cache = tmp_path / name
        cache.mkdir()
        torch.save(torch.randn(shape, generator=torch.Generator().manual_seed(0)).half(), cache / "latents.pt")
        for stop in stops:
            average = train(cache, steps=4, batch_size=2, stop=stop, config=dict(UNET_CONFIG))
        weights.append(average.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_drawing_is_deterministic():
    assert [random_person(random.Random(3)) for _ in range(3)] == [random_person(random.Random(3)) for _ in range(3)]


def test_a_tenth_of_the_combinations_is_held_out():
    rng = random.Random(0)
    share = sum(held_out(uniform_person(rng)) for _ in range(4000)) / 4000
    assert 0.08 < share < 0.12
