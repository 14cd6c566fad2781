"""The algebra of concepts."""

import pickle

import pytest
import torch

from helpers import random_vector, run_node
from hspace.concepts import (
    NOTHING,
    Choice,
    NormalisedSum,
    Provenance,
    Sum,
    Sweep,
    Varied,
    Vector,
    coefficients_by_site,
    image_labels,
)


def test_direction_gives_itself_to_every_image():
    v = random_vector(name="woman")
    assert v.vectors() == (v,)
    assert torch.equal(v.coefficients(3), torch.ones(3, 1))
    assert str(v.assignment(2.0)) == "every image: woman x 2"


def test_sums_nest_and_store_a_repeated_direction_once():
    a, b = random_vector(name="a"), random_vector(name="b", seed=1)
    expression = 2 * (a + 3 * b) + -1 * a
    assert expression.vectors() == (a, b)
    assert torch.equal(expression.coefficients(2), torch.tensor([[1.0, 6.0]] * 2))


def test_direction_is_immutable_and_owns_its_tensor():
    tensor = torch.zeros(4, 2, 2)
    v = Vector(tensor, "v", "SD1", Provenance(other={"seed": "1"}))
    tensor += 1
    assert v.tensor.sum() == 0
    with pytest.raises(AttributeError):
        v.name = "w"
    with pytest.raises(TypeError):
        v.provenance.other["seed"] = "2"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (random_vector(family="SDXL", name="dark"), "'woman' is for TinyModel.*'dark' is for SDXL"),
        (random_vector(shape=(32, 8, 8), name="thin"), r"'woman'.*'thin' is for TinyModel \(32 channels"),
        (random_vector(shape=(64, 4, 4), name="small"), r"image sizes.*'woman'.*map 8 x 8.*'small'.*map 4 x 4"),
    ],
)
def test_models_do_not_mix(other, words):
    with pytest.raises(ValueError, match=words):
        random_vector(name="woman") + other


@pytest.mark.parametrize("tensor", [torch.zeros(4), torch.full((1, 1, 1), float("nan"))])
def test_bad_tensors_are_refused(tensor):
    with pytest.raises(ValueError, match="Concept 'v'"):
        Vector(tensor, "v", "SD1")


def test_nothing_adds_nothing():
    v = random_vector()
    assert NOTHING.vectors() == ()
    assert NOTHING.coefficients(3).shape == (3, 0)
    assert str(NOTHING.assignment()) == "every image: nothing"
    assert torch.equal((v + NOTHING).coefficients(2), torch.ones(2, 1))


def test_a_direction_without_a_map_mixes_with_one():
    assert len((random_vector(name="mean", shape=(64, 1, 1)) + random_vector()).vectors()) == 2


def test_two_loads_of_one_file_are_one_direction():
    a, again, b = random_vector(name="a"), random_vector(name="a"), random_vector(name="a", seed=1)
    assert (a + again).vectors() == (a,)
    assert torch.equal((a + again).coefficients(1), torch.tensor([[2.0]]))
    assert len((a + b).vectors()) == 2


def test_choice_gives_each_image_one_option():
    man, woman = random_vector(name="man"), random_vector(name="woman", seed=1)
    choice = Choice((man, woman), (1, 1), seed=3)
    coefficients = choice.coefficients(10)
    assert torch.equal(coefficients.sum(1), torch.ones(10))
    assert torch.equal(coefficients.sum(0), torch.full((2,), 5.0))
    assert str(choice.assignment(2.0)).splitlines()[0] in ("0: man x 2", "0: woman x 2")
    assert torch.equal(choice.coefficients(4), coefficients[:4])


def test_sum_of_choices_draws_independently():
    genders = Choice((random_vector(name="man"), random_vector(name="woman", seed=1)), (1, 1))
    tones = Choice((random_vector(name="light", seed=2), random_vector(name="dark", seed=3)), (1, 1))
    both = (genders + tones).coefficients(400)
    joint = both[:, :2].T @ both[:, 2:]
    assert joint.sum() == 400
    assert joint.min() > 75


def test_single_images_see_every_combination():
    def drawn(seed):
        genders = Choice((random_vector(name="man"), random_vector(name="woman", seed=1)), (1, 1), seed)
        tones = Choice((random_vector(name="light", seed=2), random_vector(name="dark", seed=3)), (1, 1), seed)
        return (genders + tones).assignment(images=1)

    assert len({drawn(seed) for seed in range(4)}) == 4


def test_the_same_choice_twice_draws_once():
    choice = Choice((random_vector(name="man"), random_vector(name="woman", seed=1)), (1, 1))
    assert torch.equal((choice + choice).coefficients(5), 2 * choice.coefficients(5))


def test_choices_nest_and_stay_balanced_inside():
    a, b, c = (random_vector(name=name, seed=seed) for seed, name in enumerate("abc"))
    nested = Choice((a, Choice((b, c), (1, 1))), (1, 1), seed=5)
    assert nested.coefficients(40).sum(0).tolist() == [20, 10, 10]


def test_sweep_moves_along_the_batch():
    sweep = Sweep(random_vector(name="woman"), -1.0, 2.0)
    assert torch.allclose(sweep.coefficients(4), torch.tensor([[-1.0], [0.0], [1.0], [2.0]]), atol=1e-6)
    assert sweep.coefficients(1).item() == -1
    assert str(sweep.assignment(0.5)) == "every image: woman x -0.5 to 1"


def test_varied_strengths_fill_their_range_and_belong_to_their_image():
    woman = random_vector(name="woman")
    varied = Varied(woman, 0.5, 1.5, seed=4)
    drawn = varied.coefficients(400)[:, 0]
    assert (drawn >= 0.5).all()
    assert (drawn <= 1.5).all()
    counts = torch.histc(drawn, 10, 0.5, 1.5)
    assert counts.min() > 20  # 40 are expected, with a deviation of 6
    assert torch.equal(varied.coefficients(3)[:, 0], drawn[:3]), "it depends on the number of images"
    assert torch.equal(varied.coefficients(2, [7, 3])[:, 0], drawn[[7, 3]]), "a part of a batch gets other strengths"
    assert torch.equal(Varied(woman, 0.5, 1.5, seed=4).coefficients(9)[:, 0], drawn[:9])
    assert not torch.equal(Varied(woman, 0.5, 1.5, seed=5).coefficients(9)[:, 0], drawn[:9])


def test_varied_strengths_are_the_same_share_of_another_range():
    woman = random_vector(name="woman")
    narrow, wide = (Varied(woman, -1.0, end).coefficients(50) for end in (0.0, 4.0))
    torch.testing.assert_close((narrow + 1) * 5, wide + 1, atol=0.005, rtol=0)
    assert torch.equal(Varied(woman, 2.0, 2.0).coefficients(5), torch.full((5, 1), 2.0))
    with pytest.raises(ValueError, match=r"^minimum: found 2, which is above the maximum of 1"):
        Varied(woman, 2.0, 1.0)


def test_varied_strengths_of_a_sum_are_independent():
    parts = (Varied(random_vector(name="woman"), 0, 1), Varied(random_vector(name="dark", seed=1), 0, 1))
    both = (parts[0] + parts[1]).coefficients(400)
    assert abs(torch.corrcoef(both.T)[0, 1].item()) < 0.15


def test_varied_strengths_are_stated_in_full():
    (varied,) = run_node("HSpaceVaryStrength", concept=random_vector(name="woman"), minimum=-1.0, maximum=1.0, seed=1)
    lines = str(varied.assignment(2.0)).splitlines()
    assert len(lines) == 64
    for image, (line, value) in enumerate(zip(lines, varied.coefficients(64)[:, 0].tolist(), strict=True)):
        assert float(line.removeprefix(f"{image}: woman x ")) == pytest.approx(2 * value, abs=1e-6)
    labels = [[f"woman x {value:g}"] for value in varied.draw(9)]
    assert image_labels(str(varied.assignment()), 9) == labels
    assert str(Varied(random_vector(name="woman"), 1.0, 1.0).assignment()) == "every image: woman x 1"
    inside = Choice((varied, random_vector(name="man", seed=1)), (1, 1))
    assert torch.equal(inside.coefficients(4), inside.coefficients(9)[:4])


def test_expressions_describe_themselves():
    a, b = random_vector(name="woman"), random_vector(name="glasses", seed=1)
    assert Sum(((1.0, a), (-0.5, b))).describe() == "1 x woman - 0.5 x glasses"
    assert Sweep(Choice((a, b), (1, 1)), 0, 2).describe() == "0 to 2 x one of (woman, glasses)"
    assert (2 * Varied(a, 0, 1.5)).describe() == "2 x (a random 0 to 1.5 x woman)"


def length(concept, image=0, batch=1):
    """Of what an image is steered with, taken from the tensors."""
    row = concept.coefficients(batch)[image]
    total = sum(factor * vector.tensor.expand(-1, 8, 8) for factor, vector in zip(row, concept.vectors(), strict=True))
    return total.square().mean((1, 2)).sum().sqrt().item()


def test_a_normalised_sum_is_as_long_as_its_longest_term():
    a, b = random_vector(name="a"), random_vector(name="b", seed=1)
    c = random_vector(name="c", seed=2, shape=(64, 1, 1))
    stack = a
    for term, weight in ((b, 2.0), (c, 0.5), (a, 1.0), (b, 0.3)):
        (stack,) = run_node(
            "HSpaceAddConcepts", concept_a=stack, concept_b=term, weight_a=1.0, weight_b=weight, normalise=True
        )
        assert length(stack) == pytest.approx(length(2 * b), rel=1e-4)
    plain = a + b
    (same,) = run_node("HSpaceAddConcepts", concept_a=a, concept_b=b)
    assert torch.equal(same.coefficients(2), plain.coefficients(2))
    assert same.describe() == plain.describe()


def test_a_normalised_sum_leaves_what_is_shorter():
    a = random_vector(name="a")
    difference = NormalisedSum(((1.0, a), (-0.4, a)))
    assert difference.coefficients(1).item() == pytest.approx(0.6)
    assert NormalisedSum(((1.0, NOTHING), (0.0, a))).coefficients(2).tolist() == [[0], [0]]
    assert difference.describe() == "normalised (1 x a - 0.4 x a)"


def test_each_image_is_normalised_by_itself():
    a, b = random_vector(name="a"), random_vector(name="b", seed=1)
    choice = Choice((a, 3.0 * a), (1, 1), seed=3)
    both = NormalisedSum(((1.0, choice), (1.0, b)))
    for image, share in enumerate(choice.coefficients(6)[:, 0].tolist()):
        assert length(both, image, 6) == pytest.approx(max(share * length(a), length(b)), rel=1e-4)
    again = pickle.loads(pickle.dumps(both))
    assert torch.equal(again.coefficients(6), both.coefficients(6))


def test_each_site_is_normalised_by_itself():
    """Lengths are of other terms at each site: a long at the first, b at the second, and the third b's alone."""
    ones = torch.ones(4, 1, 1)
    a = Vector(4 * ones, "a", "test", decoder={1: 1 * ones})
    b = Vector(3 * ones, "b", "test", decoder={1: -2 * ones, 2: ones})
    both = NormalisedSum(((1.0, a), (1.0, b)))
    by_site = coefficients_by_site(both, 1)
    assert by_site.keys() == {0, 1, 2}
    for site, expected in ((0, 4 / 7), (1, 1.0), (2, 1.0)):
        assert by_site[site].tolist() == [[pytest.approx(expected)] * 2]
    lengths = [sum(at**2 for at in sites) ** 0.5 for sites in ((4, 1), (3, 2, 1), (7, -1, 1))]
    assert both.coefficients(1)[0].tolist() == [pytest.approx(max(lengths[:2]) / lengths[2])] * 2
    chained = coefficients_by_site(NormalisedSum(((1.0, both), (2.0, a))), 1)
    assert chained[0].tolist() == [[pytest.approx(x) for x in ((2 + 4 / 7) * 8 / 12, 4 / 7 * 8 / 12)]]
    plain = coefficients_by_site(a + b, 2)
    assert all(rows is plain[0] for rows in plain.values())


def test_what_has_no_length_at_a_site_is_left_as_it_is():
    """Responses without a constant: they are no part of a length, and are not taken away."""
    silent = [Vector(torch.zeros(4, 1, 1), name, "test") for name in "ab"]
    assert NormalisedSum(((1.0, silent[0]), (0.5, silent[1]))).coefficients(1).tolist() == [[1.0, 0.5]]


def test_nodes_build_expressions():
    a, b, c = (random_vector(name=name, seed=seed) for seed, name in enumerate("abc"))
    (added,) = run_node("HSpaceAddConcepts", concept_a=a, concept_b=b, weight_a=2.0, weight_b=-1.0)
    assert added.coefficients(1).tolist() == [[2, -1]]
    (chosen,) = run_node("HSpaceChooseConcept", concept_1=added, concept_2=b, concept_4=c, weights="1, 1, 2", seed=7)
    assert chosen.options == (added, b, c)
    assert chosen.weights == (1, 1, 2)
    assert chosen.seed == 7
    assert chosen.balanced
    (swept,) = run_node("HSpaceSweepConcept", concept=chosen, **{"from": -2.0, "to": 2.0})
    assert torch.allclose(swept.coefficients(2), chosen.coefficients(2) * torch.tensor([[-2.0], [2.0]]), atol=1e-6)
