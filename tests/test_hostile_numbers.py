"""Numbers and texts that no person would type, but a shared workflow or another node may send."""

import copy
import gc
import io
import json
import random
import time
import urllib.request

import numpy as np
import pytest
import torch

from helpers import node_classes, random_vector, run_node
from hspace.concepts import Choice, NormalisedSum, Sum, Sweep, Varied, parse_weights

NUMBERS = ("FLOAT", "INT", "MASK", "LATENT", "FLOATS")
BROKEN = [float("nan"), float("inf"), float("-inf")]
INPUTS = [
    (node_id, item.id)
    for node_id, node in node_classes().items()
    for item in node.GET_SCHEMA().inputs
    if item.io_type in NUMBERS
]


def broken_value(kind: str, number: float):
    tensor = torch.zeros(1, 4, 8, 8)
    tensor[..., 3, 3] = number
    return {"MASK": tensor[0, :1], "LATENT": {"samples": tensor}, "FLOATS": [1.0, number]}.get(kind, number)


@pytest.mark.parametrize("number", BROKEN)
@pytest.mark.parametrize(("node_id", "name"), INPUTS)
def test_no_node_takes_a_number_that_is_none(node_id, name, number):
    """Called as ComfyUI calls a node whose input is linked; nothing else of it is looked at before."""
    node = node_classes()[node_id]
    schema = node.GET_SCHEMA()
    value = broken_value(next(item.io_type for item in schema.inputs if item.id == name), number)
    clone = node.PREPARE_CLASS_CLONE({})
    with pytest.raises(ValueError, match=rf"^{name}: "):
        clone.EXECUTE_NORMALIZED(**{name: [value] if schema.is_input_list else value})


def within_50_ms(function, *arguments):
    """What it returns or says, and that it did not keep anyone waiting."""
    gc.disable()  # a collection of all that the tests before left takes 0.2 s, whoever's allocation sets it off
    began = time.thread_time()
    try:
        return function(*arguments)
    except ValueError as error:
        return str(error)
    finally:
        seconds = time.thread_time() - began
        gc.enable()
        assert seconds < 0.05, arguments


@pytest.mark.parametrize(
    "text",
    [
        "1e99999999,1",
        "1e1000000,1",
        "1e-99999999,1",
        "1e+000000099999999,1",
        "1e9999_9999,1",
        "1e999,1",
        f"{'9' * 5000},1",
        f"1/{'9' * 5000},1",
        f"{'1,' * 100_000}1",
        "9999.5,1",
    ],
)
def test_weights_are_answered_at_once(text):
    answer = within_50_ms(parse_weights, text, 2)
    assert answer.startswith("weights: ")
    assert len(answer) < 400


@pytest.mark.parametrize("weights", [(9999, 1), (1, 9999), (9990, 2, 2, 2, 2, 2), (1666, 1667, 1666, 1667, 1666, 1668)])
def test_a_long_cycle_costs_as_much_as_there_are_images(weights):
    """The first time of all the cycle itself is worked out."""
    options = tuple(random_vector(name=str(index), seed=index) for index in range(len(weights)))
    text = ",".join(map(str, weights))
    (choice,) = run_node(
        "HSpaceChooseConcept",
        **{f"concept_{index + 1}": option for index, option in enumerate(options)},
        weights=text,
        seed=random.getrandbits(63),
    )
    drawn = within_50_ms(choice.allocate, 64)
    expected = 64 * np.array(weights) / sum(weights)
    assert np.abs(np.bincount(drawn, minlength=len(weights)) - expected).max() < 1


A, B = random_vector(name="a"), random_vector(name="b", seed=1)


def doubled(concept):
    return Sum(((1.0, concept), (0.25, concept)))


def chosen(concept):
    return Choice((concept, 0.5 * concept), (1, 1))


def chosen_twice(concept):
    return chosen(concept) + Choice((B, concept), (2, 1), seed=1)


# name: (one more node around a concept, how many of them)
NESTED = {
    "add of itself": (doubled, 40),
    "scale": (lambda concept: 0.999 * concept, 1200),
    "add": (lambda concept: Sum(((0.99, concept), (0.5, B))), 1200),
    "normalised": (lambda concept: NormalisedSum(((0.99, concept), (0.5, B))), 300),
    "sweep": (lambda concept: Sweep(concept, 0.999, 1.0), 1200),
    "vary": (lambda concept: Varied(concept, 0.999, 1.0), 1200),
    "choose": (chosen, 12),
    "choose of an add": (lambda concept: chosen(doubled(concept)), 8),
    "sum of two choices": (chosen_twice, 4),
}


@pytest.mark.parametrize("name", NESTED)
def test_depth_and_parts_used_again_cost_no_more_than_there_are_parts(name):
    around, count = NESTED[name]
    began = time.thread_time()
    concept = A
    for _ in range(count):
        concept = around(concept)
    values = concept.coefficients(64)
    assert values.shape == (64, len(concept.vectors()))
    assert len(str(concept.assignment()).splitlines()) in (1, 64)
    assert len(concept.describe()) <= 50_000
    assert len(repr(concept)) < 300, "ComfyUI writes the inputs of a failed node into its log"
    assert copy.deepcopy(concept) is concept
    file = io.BytesIO()
    torch.save(concept, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False).coefficients(64), values)
    assert time.thread_time() - began < 5


def test_too_many_groups_of_images_is_an_error(monkeypatch):
    monkeypatch.setattr("hspace.concepts.evaluation.MOST_EVALUATIONS", 500)
    concept = A
    for _ in range(30):
        concept = chosen_twice(concept)
    with pytest.raises(ValueError, match=r"^concept: choices are nested so deep"):
        concept.coefficients(256)


def test_a_sum_that_no_number_can_hold_is_an_error():
    concept = A
    for _ in range(40):
        concept = 20 * concept
    for asked in (lambda: concept.coefficients(2), lambda: concept.assignment()):
        with pytest.raises(ValueError, match=r"^concept: its weights and the strength multiply to more than"):
            asked()
    with pytest.raises(ValueError, match=r"^concept: its weights"):
        A.assignment(1e39)


@pytest.mark.parametrize("number", BROKEN)
def test_expressions_are_made_of_numbers(number):
    for make in (lambda: number * A, lambda: Sweep(A, number, 1), lambda: Sweep(A, 0, number)):
        with pytest.raises(ValueError, match="which is no number to compute with"):
            make()


def outcome(server, prompt) -> str:
    """What a server says of a prompt that fails, sent as any client may: JSON with NaN in it."""
    number = server.queue(prompt)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        history = json.loads(urllib.request.urlopen(f"{server.url}/history/{number}", timeout=30).read())
        if number in history:
            messages = dict(history[number]["status"]["messages"])
            return messages["execution_error"]["exception_message"]
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.parametrize(
    ("node_id", "inputs", "words"),
    [
        ("HSpaceSweepConcept", {"from": float("nan"), "to": 1.0}, "from: found nan"),
        ("HSpaceSweepConcept", {"from": ["number", 0], "to": 1.0}, "from: found nan"),
        ("HSpaceChooseConcept", {"weights": "1e99999999,1"}, "weights: '1e99999999,1' is not a list of numbers"),
    ],
)
def test_through_a_server(server, node_id, inputs, words):
    loaded = ["load", 0]
    one, two = {"concept": loaded}, {"concept_1": loaded, "concept_2": loaded, "mode": "balanced", "seed": 0}
    prompt = {
        "load": {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": "emoji_woman.safetensors"}},
        "number": {"class_type": "PrimitiveFloat", "inputs": {"value": float("nan")}},
        "node": {"class_type": node_id, "inputs": {**(one if "from" in inputs else two), **inputs}},
        "inspect": {"class_type": "HSpaceInspectConcept", "inputs": {"concept": ["node", 0]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["inspect", 1]}},
    }
    assert words in outcome(server, prompt)
