"""Assignments as text and as labels, and the strip that shows them."""

import math

import pytest
import torch
from hspace_steering.nodes.strip import LabelStrip
from hypothesis import given
from hypothesis import strategies as st

from helpers import random_vector
from hspace.concepts import NOTHING, Choice, Concept, Sum, Sweep
from hspace.concepts import image_labels as read
from hspace.viewing import strip as strips
from hspace.viewing.strip import MAX_COLUMNS, MAX_WIDTH, font_for, grid, wrap

WOMAN, DARK = random_vector(name="woman"), random_vector(name="dark skin", seed=1)


def pictures(count, height=128, width=128, channels=3):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(0))


def image_labels(assignment, count):
    return [", ".join(texts) or "nothing" for texts in read(str(assignment), count)]


def label_strip(images, assignment):
    return strips.label_strip(images, read(str(assignment), len(images)))


def test_labels_of_every_image():
    assert image_labels((2 * WOMAN + 0.5 * DARK).assignment(), 2) == ["woman x 2, dark skin x 0.5"] * 2
    assert image_labels(WOMAN.assignment(-0.75), 1) == ["woman x -0.75"]
    assert image_labels(WOMAN.assignment(1e-6), 1) == ["woman x 1e-06"]
    assert image_labels(NOTHING.assignment(), 3) == ["nothing"] * 3


def test_labels_of_a_choice():
    choice = Choice((WOMAN, DARK), (1, 1), seed=3)
    names = [("woman", "dark skin")[option] for option in choice.allocate(6)]
    assert image_labels(choice.assignment(1.5), 6) == [f"{name} x 1.5" for name in names]
    some = image_labels(Choice((WOMAN, NOTHING), (1, 1)).assignment(), 8)
    assert sorted(some) == ["nothing"] * 4 + ["woman x 1"] * 4


@pytest.mark.parametrize("count", range(1, 10))
@pytest.mark.parametrize(
    "concept",
    [
        Sweep(WOMAN, -1.0, 2.0),
        Sweep(WOMAN, -1.0, 2.0) + 0.25 * DARK,
        Sweep(WOMAN + DARK, 0.5, -0.5),
        Sweep(Choice((WOMAN, DARK), (1, 2), seed=1), -1.0, 2.0),
    ],
)
def test_swept_numbers_are_those_that_steer(concept, count):
    names = [part.name for part in concept.vectors()]
    for label, row in zip(image_labels(concept.assignment(2), count), 2 * concept.coefficients(count), strict=True):
        shown = dict.fromkeys(names, 0.0)
        if label != "nothing":
            shown |= {part.split(" x ")[0]: float(part.split(" x ")[1]) for part in label.split(", ")}
        assert list(shown.values()) == pytest.approx(row.tolist(), abs=6e-4)


def test_sweep_has_no_negative_zero():
    assert image_labels("every image: a x -1 to 1", 3) == ["a x -1", "a x 0", "a x 1"]


def test_names_may_look_like_assignments():
    assert image_labels("every image: rain, heavy x 2 to 3 days: x 1 to 2", 2) == [
        "rain, heavy x 2 to 3 days: x 1",
        "rain, heavy x 2 to 3 days: x 2",
    ]
    assert image_labels("every image: 4 x 4 x 1", 1) == ["4 x 4 x 1"]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.sampled_from(
    [
        "look x 2 to 3, v2",
        "look x 2",
        "nothing",
        "every image: a x 1",
        '"quoted" x 1',
        "a\\b",
        "x 1",
        "a,b",
        ", ",
        "0: a x 1",
        "\n",
    ]
)


@given(
    st.lists(NAMES, min_size=1, max_size=3, unique_by=lambda name: " ".join(name.split())),
    st.booleans(),
    st.integers(1, 5),
)
def test_text_of_an_assignment_is_read_as_it_was_meant(names, chosen, count):
    """Whatever a concept is called."""
    parts = [Sweep(random_vector(name=name, seed=place), place - 1.0, 0.5) for place, name in enumerate(names)]
    concept: Concept = (
        Choice((*parts, NOTHING), (1,) * (len(parts) + 1)) if chosen else Sum(tuple((1.0, part) for part in parts))
    )
    assignment = concept.assignment(2.0)
    entries = assignment.entries if assignment.per_image else assignment.entries * count
    expected = [
        [share.label(place / max(1, count - 1)) for share in entry if share.start or share.end]
        for place, entry in enumerate(entries[:count])
    ]
    assert read(str(assignment), count) == expected


def test_texts_of_chained_nodes_are_joined():
    text = f"{Sweep(WOMAN, 0.0, 1.0).assignment()}\n{DARK.assignment(0.5)}\n{NOTHING.assignment()}"
    assert image_labels(text, 2) == ["woman x 0, dark skin x 0.5", "woman x 1, dark skin x 0.5"]
    assert image_labels("0: a x 1\n1: b x 1\nevery image: c x 2", 2) == ["c x 2, a x 1", "c x 2, b x 1"]


@pytest.mark.parametrize("text", ["", " \n", "a woman", "0 woman x 1", "every image: woman", "0: woman x 1\nand more"])
def test_no_assignment(text):
    with pytest.raises(ValueError, match=r"^assignment: .*Connect"):
        image_labels(text, 1)


def test_fewer_lines_than_images():
    with pytest.raises(ValueError, match=r"^assignment: .*2 images.*3 images"):
        label_strip(pictures(3), "0: woman x 1\n1: woman x 2")
    with pytest.raises(ValueError, match=r"^assignment: .*64 images.*65 images"):
        image_labels(Choice((WOMAN, DARK), (1, 1)).assignment(), 65)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (1024, 1024), (128, 256), (48, 40)])
def test_strip(height, width):
    images = pictures(3, height, width)
    strip = label_strip(images, "every image: woman x -1 to 1")
    assert strip.dtype == torch.float32
    assert strip.shape[0] == 1
    assert strip.shape[3] == 3
    assert strip.min() >= 0
    assert strip.max() <= 1
    found = [
        (strip[0].unfold(0, 2, 1).unfold(1, 2, 1) == image[:2, :2].permute(2, 0, 1)[None, None])
        .all((2, 3, 4))
        .nonzero()
        .tolist()
        for image in images
    ]
    assert [len(places) for places in found] == [1, 1, 1], "each image once, untouched"
    (top, left), *others = [places[0] for places in found]
    assert [place[0] for place in others] == [top, top], "side by side"
    assert left < others[0][1] < others[1][1]
    assert torch.equal(strip[0, top : top + height, left : left + width], images[0])
    ink = (strip[0, top + height :, left : left + width].mean(-1) < 0.5).any(1).nonzero()
    assert (ink.max() - ink.min() + 1).item() >= max(7, min(height, width) // 28), "small letters large enough to read"


def test_one_image_of_four_channels():
    (strip,) = LabelStrip.execute([pictures(1, channels=4)], [str(WOMAN.assignment())]).result[0]
    assert strip.shape[3] == 3


def test_a_list_of_single_images_is_one_batch():
    """As nodes give it that split a batch; every image has the line that it has in the batch."""
    images, texts = pictures(3), ["0: woman x 1\n1: woman x 2\n2: nothing"]
    (wanted,) = LabelStrip.execute([images], texts).result[0]
    (strip,) = LabelStrip.execute(list(images.split(1)), texts).result[0]
    assert torch.equal(strip, wanted)
    mixed = LabelStrip.execute([images[:1], pictures(1, height=64)], texts).result[0]
    for index, strip in enumerate(mixed):
        image = (images[:1], pictures(1, height=64))[index]
        assert torch.equal(strip, strips.label_strip(image, [[f"woman x {index + 1}"]]))


def test_a_list_of_batches_is_labelled_one_by_one():
    """Each was sampled as a batch of its own, so each begins with the first line."""
    first, second = pictures(2), 1 - pictures(2)
    one, two = ["0: woman x 1\n1: woman x 2"], ["every image: dark skin x 1"]
    found = LabelStrip.execute([first, second], one).result[0]
    assert [torch.equal(a, label_strip(b, one[0])) for a, b in zip(found, (first, second), strict=True)] == [True, True]
    found = LabelStrip.execute([first[:1], second[:1]], one + two).result[0]
    assert torch.equal(found[1], label_strip(second[:1], two[0]))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_numbers_that_are_none_are_refused(number):
    with pytest.raises(ValueError, match=r"^assignment: found (nan|-?inf)"):
        read(f"0: woman x {number}", 1)


def test_label_says_the_number():
    """Equal labels give equal ink, another number gives other ink, and each is under its own image."""
    swept = label_strip(torch.ones(3, 128, 128, 3), "every image: woman x 0 to 2")
    listed = label_strip(torch.ones(3, 128, 128, 3), "0: woman x 0\n1: woman x 1\n2: woman x 2")
    other = label_strip(torch.ones(3, 128, 128, 3), "0: woman x 0\n1: woman x 3\n2: woman x 2")
    assert torch.equal(swept, listed)
    columns = (swept != other)[0].any(-1).any(0).nonzero()
    third = swept.shape[2] / 3
    assert third < columns.min() <= columns.max() < 2 * third


def test_long_labels_make_room():
    short = label_strip(pictures(2), "every image: woman x 1")
    long = label_strip(pictures(2), f"every image: {'a very long name of a concept ' * 9}x 1")
    assert long.shape[2] == short.shape[2]
    assert long.shape[1] > short.shape[1] + 100
    assert (long[0, -20:] < 0.5).any(), "the last line is drawn"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), st.integers(40, 400))
def test_wrapping_loses_nothing(text, width):
    font = font_for("a", 13)
    lines = wrap(text, font, width)
    assert "".join(lines).replace(" ", "").replace(",", "") == "".join(text.split()).replace(",", "")
    assert all(font.getlength(line) <= width for line in lines)


def test_wrapping_keeps_a_concept_on_one_line():
    assert wrap("woman x 1, dark skin x 0.5", font_for("a", 13), 128) == ["woman x 1,", "dark skin x 0.5"]


@given(st.integers(1, 200), st.integers(16, 5000))
def test_grid(count, cell_width):
    columns, rows = grid(count, cell_width)
    assert columns * (rows - 1) < count <= columns * rows
    assert columns == 1 or (columns <= MAX_COLUMNS and columns * cell_width <= MAX_WIDTH)
    assert (
        rows == math.ceil(count / max(1, min(MAX_COLUMNS, MAX_WIDTH // cell_width))) or columns * rows - count < columns
    )


def test_grid_rows_are_even():
    assert grid(7, 134) == (7, 1)
    assert grid(9, 526) == (5, 2)
    assert grid(16, 134) == (8, 2)
    assert grid(3, 9000) == (1, 3)


def test_letters_beyond_latin():
    font = font_for("женщина x 1", 20)
    assert bytes(font.getmask("ж")) != bytes(font.getmask("\uffff")), "a letter, not the box for a missing one"
    assert label_strip(pictures(1), "every image: 女性 x 1").isfinite().all(), "drawn with boxes where no font has it"
