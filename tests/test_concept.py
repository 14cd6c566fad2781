"""The algebra of concepts."""

import pytest
import torch
from hspace_steering.hspace.concept import Direction
from hspace_test_helpers import direction


def test_direction_gives_itself_to_every_image():
    v = direction(name="woman")
    assert v.directions() == (v,)
    assert torch.equal(v.coefficients(3), torch.ones(3, 1))
    assert v.assignment(2) == "0: woman x 1\n1: woman x 1"


def test_sums_nest_and_store_a_repeated_direction_once():
    a, b = direction(name="a"), direction(name="b", seed=1)
    expression = 2 * (a + 3 * b) + -1 * a
    assert expression.directions() == (a, b)
    assert torch.equal(expression.coefficients(2), torch.tensor([[1.0, 6.0]] * 2))


def test_direction_is_immutable_and_owns_its_tensor():
    tensor = torch.zeros(4, 2, 2)
    v = Direction(tensor, "v", "SD1", {"seed": "1"})
    tensor += 1
    assert v.tensor.sum() == 0
    with pytest.raises(AttributeError):
        v.name = "w"
    with pytest.raises(TypeError):
        v.metadata["seed"] = "2"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (direction(family="SDXL", name="dark"), "'dark' for SDXL"),
        (direction(shape=(32, 8, 8), name="thin"), r"'thin' for TinyModel \(32 channels\)"),
    ],
)
def test_models_do_not_mix(other, words):
    with pytest.raises(ValueError, match=words):
        direction(name="woman") + other


@pytest.mark.parametrize("tensor", [torch.zeros(4), torch.full((1, 1, 1), float("nan"))])
def test_bad_tensors_are_refused(tensor):
    with pytest.raises(ValueError, match="Concept 'v'"):
        Direction(tensor, "v", "SD1")
