"""Concept Card: what is on the page, whatever the vector."""

import numpy as np
import pytest
import torch

from helpers import node_classes, random_vector, run_node
from hspace.concepts import UnfinishedVector, Vector
from hspace.files import save_concept
from hspace.viewing import Neighbours, concept_card, find_neighbours
from hspace.viewing import card as drawn

FOUND = {"concept_prompt": "a woman judge | a woman pilot", "base_prompt": "a judge | a pilot", "steps": "125"}


@pytest.fixture
def texts(monkeypatch):
    """All that is written on a card, block by block."""
    written = []

    def wrap(text, *arguments):
        written.append(text)
        return original(text, *arguments)

    original = drawn.wrap
    monkeypatch.setattr(drawn, "wrap", wrap)
    return written


def colours(page) -> set[tuple[int, ...]]:
    pixels = (page[0].numpy() * 255).round().astype(int)
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def test_everything_is_on_the_page(texts):
    vector = random_vector(name="woman", strength_saturates="0.5", strength_breaks="2", **FOUND)
    vector = Vector(vector.tensor, "woman", vector.family, vector.provenance, {1: torch.ones(32, 1, 1)})
    others = Neighbours((("man", 0.43), ("dark skin", -0.21)), "2 for another base model")
    strip = torch.rand(1, 150, 900, 3)
    page = concept_card(vector, others, strip)
    assert page.shape[0] == 1
    assert page.shape[2:] == (1024, 3)
    assert 0 <= page.min() < page.max() == 1
    whole = "\n".join(texts)
    for text in (
        "woman",
        "TinyModel, 125 steps",
        "the concept is there from strength 0.5 on, images begin to break at 2.",
        "with:  a woman judge | a woman pilot",
        "without:  a judge | a pilot",
        "h-space",
        "block 1",
        "man",
        "dark skin",
        "Not shown: 2 for another base model.",
    ):
        assert text in whole
    assert {drawn.BLUE, drawn.RED, drawn.FAINT} <= colours(page)
    rows = (strip[0, 0] * 255).round() / 255
    assert (page[0, :, 40:940] - rows).abs().amax((1, 2)).min() < 1e-5, "the strip is not on it as it is"


def test_the_axis_of_strengths():
    def share(colour, **provenance):
        picture = np.asarray(drawn._range(random_vector(**provenance), 401))[: drawn.BAR_HEIGHT]
        return round(float((picture == colour).all(-1).mean()), 2)

    measured = {"strength_saturates": "1", "strength_breaks": "3"}
    assert share(drawn.BLUE, **measured) == pytest.approx(2 / 3.75, abs=0.02)
    assert share(drawn.RED, **measured) == pytest.approx(0.75 / 3.75, abs=0.02)
    assert share(drawn.BLUE, strength_saturates="1") == pytest.approx(0.2, abs=0.02)
    assert share(drawn.BLUE, strength_breaks="1") == 0
    assert share(drawn.BLUE, strength_saturates="3", strength_breaks="1") == 0
    assert share(drawn.BLUE) == 0


def test_neighbours(texts):
    vector = random_vector(name="a")
    alike = Vector(vector.tensor + 0.5 * random_vector(seed=1).tensor, "alike", "TinyModel")
    others = [
        vector,
        random_vector(name="far", seed=2),
        alike,
        vector.scaled(-1.0),
        None,
        random_vector(family="SDXL"),
        random_vector((32, 8, 8)),
        random_vector((64, 1, 1), name="no map", seed=3),
        UnfinishedVector(vector.tensor * 2, "unfinished", "TinyModel", state={"step": torch.tensor(1.0)}),
    ]
    found = find_neighbours(vector, iter(others))
    assert [name for name, _ in found.cosines[:2]] == ["a", "alike"]
    assert found.cosines[0][1] == pytest.approx(-1)
    assert {name for name, _ in found.cosines[2:]} == {"far", "no map"}
    assert found.left_out == "2 for another base model, 1 that cannot be read"
    concept_card(vector, Neighbours(tuple((f"v{number}", 0.1) for number in range(40))))
    assert any("Not shown: 30 with smaller cosines." in text for text in texts)


@pytest.mark.parametrize("name", ["漢字と" * 60, "$x$ <b>\u202e", "W" * 200, "a b " * 50])
def test_texts_of_strangers(name):
    texts = {"concept_prompt": name * 90, "base_model": "TinyModel:" + "x" * 150, "strength_breaks": "1e308"}
    vector = random_vector(name=name, method=name, **texts)
    page = concept_card(vector, Neighbours(((name, 2.0), (name, float("-0.0")))))
    assert page.shape[2] == 1024
    assert page.shape[1] < 1400


@pytest.mark.parametrize("shape", [(1, 64, 3000, 3), (7, 32, 32, 3), (2, 40, 40, 4), (1, 1, 1, 3)])
def test_any_strip(shape):
    assert concept_card(random_vector(), Neighbours(), torch.rand(shape)).shape[2:] == (1024, 3)


def test_node_compares_with_the_files_that_fit_the_pattern(vector_folder, texts):
    vector = random_vector(name="woman")
    for file, name in {"sub/one": "first", "sub/two": "second", "other": "third"}.items():
        save_concept(random_vector(name=name, seed=len(name)), vector_folder / file)
    (vector_folder / "sub" / "bad.safetensors").write_bytes(b"x")

    def shown(pattern):
        texts.clear()
        (card,) = run_node("HSpaceConceptCard", concept=vector, compare_with=pattern)
        assert card.shape[2] == 1024
        return {text for text in texts if text in ("first", "second", "third")}, "\n".join(texts)

    names, words = shown("sub/*")
    assert names == {"first", "second"}
    assert "1 that cannot be read" in words
    assert shown("*")[0] == {"first", "second", "third"}
    assert shown("sub/one")[0] == {"first"}
    assert shown("")[0] == set()
    node = node_classes()["HSpaceConceptCard"]
    before = node.fingerprint_inputs(compare_with="sub/*", concept=None)
    (vector_folder / "sub" / "one.safetensors").unlink()
    assert node.fingerprint_inputs(compare_with="sub/*", concept=None) != before


def test_what_has_no_card(vector_folder, monkeypatch):
    with pytest.raises(ValueError, match=r"^concept: .*combination"):
        run_node("HSpaceConceptCard", concept=2 * random_vector())
    with pytest.raises(ValueError, match=r"^compare_with: "):
        run_node("HSpaceConceptCard", concept=random_vector(), compare_with="x" * 201)
    assert "201 characters" in node_classes()["HSpaceConceptCard"].validate_inputs(compare_with="x" * 201)
    monkeypatch.setattr("hspace_steering.nodes.card.MOST_FILES", 2)
    with pytest.raises(ValueError, match=r"^compare_with: \d+ vectors fit"):
        run_node("HSpaceConceptCard", concept=random_vector())
