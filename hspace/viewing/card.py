"""The card of a concept: one page that says what a vector does, what it was found with, and what it resembles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..concepts import UnfinishedVector, Vector, quoted
from .inspection import compare_concepts, inspect_concept
from .strip import INK, font_for, grid, wrap
from .summary import prompts_of

WIDTH, MARGIN, GAP = 1024, 40, 28
TITLE, HEADING, TEXT, SMALL = 36, 20, 16, 14
"""Heights of letters in pixels."""
LONGEST_NAME, LONGEST_PROMPTS = 120, 420
"""Characters that are shown."""
MOST_NEIGHBOURS = 10
GREY, FAINT, BLUE, RED = (110, 110, 110), (228, 232, 238), (58, 110, 165), (192, 80, 77)
BAR_HEIGHT, ROW_HEIGHT = 14, 24


@dataclass(frozen=True)
class Neighbours:
    """Other vectors and their cosines with one vector.

    Attributes:
        cosines: name and cosine in [-1, 1] at h-space, the largest absolute ones first.
        left_out: words on files that are not among them; "" where all are.
    """

    cosines: tuple[tuple[str, float], ...] = ()
    left_out: str = ""


def find_neighbours(vector: Vector, others: Iterable[Vector | None]) -> Neighbours:
    """The cosines of a vector with others, which are looked at one at a time.

    Args:
        others: as they come from files; None for one that could not be read. The vector itself and unfinished ones are
            passed over, those of another base model are counted.
    """
    cosines, foreign, unreadable = [], 0, 0
    for other in others:
        if other is None:
            unreadable += 1
        elif other.family != vector.family or len(other.tensor) != len(vector.tensor):
            foreign += 1
        elif other != vector and not isinstance(other, UnfinishedVector):
            cosines.append((other.name, compare_concepts(vector, other).cosine))
    counts = ((foreign, "for another base model"), (unreadable, "that cannot be read"))
    left_out = ", ".join(f"{count} {words}" for count, words in counts if count)
    return Neighbours(tuple(sorted(cosines, key=lambda item: -abs(item[1]))), left_out)


def concept_card(vector: Vector, neighbours: Neighbours, strip: torch.Tensor | None = None) -> torch.Tensor:
    """The card as an image: strip of strengths, range, energy by site, prompts, and cosines with other vectors.

    Args:
        vector: whose card it is.
        neighbours: other vectors to compare with.
        strip: `[B, H, W, C]` in [0, 1], one picture or several that are laid side by side.

    Returns:
        `[1, H', 1024, 3]`, float32 in [0, 1].
    """
    inner = WIDTH - 2 * MARGIN
    half = (inner - GAP) // 2
    provenance = vector.provenance
    origin = [provenance.base_model or vector.family, provenance.method, f"{provenance.steps or ''} steps"]
    about = ", ".join(text for text in origin if text and text != " steps")
    title = [_text(_short(vector.name, LONGEST_NAME), TITLE, inner), _text(about, TEXT, inner, GREY)]
    blocks = [_stack(title, inner, 10)]
    if strip is not None:
        blocks.append(_strip(strip, inner))
    measures = {
        "Strengths": _range(vector, half),
        "Energy by site": _energy(vector, half),
        "Cosine with other vectors": _cosines(neighbours, half),
    }
    left = _stack([_section(title, body, half) for title, body in measures.items()], half)
    blocks.append(_beside(left, _section("Prompts", _prompts(vector, half), half)))
    page = _stack(blocks, inner)
    card = Image.new("RGB", (WIDTH, page.height + 2 * MARGIN), "white")
    card.paste(page, (MARGIN, MARGIN))
    return torch.from_numpy(np.array(card)).float()[None] / 255


def _range(vector: Vector, width: int) -> Image.Image:
    """An axis of strengths: where the concept is not there yet, where it works, where images break."""
    provenance = vector.provenance
    start, end = (max(0.0, value or 0.0) for value in (provenance.strength_saturates, provenance.strength_breaks))
    if not start and not end:
        return _text("Not measured. Discover measures it if measure_range is on.", TEXT, width, GREY)
    last = 1.25 * max(start, end, 1.0)
    picture = Image.new("RGB", (width, BAR_HEIGHT + 28), "white")
    draw = ImageDraw.Draw(picture)
    parts = [(0.0, last, FAINT)]
    parts += [(start, end or last, BLUE)] if start and (start < end or not end) else []
    parts += [(end, last, RED)] if end else []
    for left, right, colour in parts:
        draw.rectangle((_place(left, last, width), 0, _place(right, last, width), BAR_HEIGHT), fill=colour)
    font = font_for("0", SMALL)
    labelled = width  # from the right: of two numbers that would overlap, the later one stays
    for value in sorted({0.0, start, end}, reverse=True):
        label, place = f"{value:.3g}", _place(value, last, width)
        if place + font.getlength(label) < labelled or labelled == width:
            draw.text((min(place, width - font.getlength(label)), BAR_HEIGHT + 6), label, fill=INK, font=font)
            labelled = place - 4
    words = _text(f"{provenance.range_text()}.", TEXT, width)
    return _stack([picture, words], width, 6)


def _place(value: float, last: float, width: int) -> int:
    return round((width - 1) * min(1.0, value / last))


def _energy(vector: Vector, width: int) -> Image.Image:
    shares = inspect_concept(vector).energy_by_site
    rows = [("h-space" if site == 0 else f"block {site}", share, f"{share:.0%}") for site, share in shares.items()]
    return _bars(rows, width, 0.0)


def _prompts(vector: Vector, width: int) -> Image.Image:
    prompts = prompts_of(vector)
    if not prompts:
        return _text("Not recorded.", TEXT, width, GREY)
    blocks = [_text(f"{label}:  {_short(text, LONGEST_PROMPTS)}", TEXT, width) for label, text in prompts]
    return _stack(blocks, width, 8)


def _cosines(neighbours: Neighbours, width: int) -> Image.Image:
    shown, count = neighbours.cosines[:MOST_NEIGHBOURS], len(neighbours.cosines)
    words = "1: same direction, 0: unrelated, -1: opposite" if shown else "Nothing to compare with"
    more = [f"{count - len(shown)} with smaller cosines"] if count > len(shown) else []
    more += [neighbours.left_out] if neighbours.left_out else []
    caption = _text(". ".join([words, *([f"Not shown: {', '.join(more)}"] if more else [])]) + ".", SMALL, width, GREY)
    rows = [(_short(name, LONGEST_NAME), cosine, f"{cosine:.2f}") for name, cosine in shown]
    return _stack([_bars(rows, width, -1.0), caption] if rows else [caption], width, 6)


def _bars(rows: list[tuple[str, float, str]], width: int, lowest: float) -> Image.Image:
    """A bar for each (label, value, value in words) on an axis from `lowest` to 1, drawn from 0."""
    picture = Image.new("RGB", (width, ROW_HEIGHT * len(rows)), "white")
    draw = ImageDraw.Draw(picture)
    label_width, value_width = width * 2 // 5, 56
    left, right = label_width + 8, width - value_width
    zero = left + (right - left) * (0.0 - lowest) / (1.0 - lowest)
    for number, (label, value, words) in enumerate(rows):
        top = number * ROW_HEIGHT
        line = wrap(label, font_for(label, SMALL), label_width - 12)
        label = line[0] if len(line) == 1 else f"{line[0].rstrip(',')}…"
        draw.text((0, top + 2), label, fill=INK, font=font_for(label, SMALL))
        end = left + (right - left) * (min(1.0, max(lowest, value)) - lowest) / (1.0 - lowest)
        draw.rectangle((left, top + 4, right, top + 4 + BAR_HEIGHT), fill=FAINT)
        draw.rectangle((min(zero, end), top + 4, max(zero, end), top + 4 + BAR_HEIGHT), fill=RED if value < 0 else BLUE)
        draw.text((right + 8, top + 2), words, fill=INK, font=font_for(words, SMALL))
    return picture


def _strip(images: torch.Tensor, width: int) -> Image.Image:
    """The pictures side by side, made smaller where they are wider than `width`."""
    pictures = [
        Image.fromarray((image[..., :3].float().cpu().clamp(0, 1) * 255).round().byte().numpy()) for image in images
    ]
    size = pictures[0].size
    columns, rows = grid(len(pictures), size[0])
    sheet = Image.new("RGB", (columns * size[0], rows * size[1]), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * size[0], number // columns * size[1]))
    if sheet.width > width:
        height = max(1, round(sheet.height * width / sheet.width))
        sheet = sheet.resize((width, height), Image.Resampling.LANCZOS)
    return sheet


def _section(title: str, body: Image.Image, width: int) -> Image.Image:
    return _stack([_text(title, HEADING, width), body], width, 8)


def _text(text: str, size: int, width: int, colour=INK) -> Image.Image:
    """The text in as many lines as it needs."""
    font = font_for(text, size)
    lines, height = wrap(text, font, width), sum(font.getmetrics())
    picture = Image.new("RGB", (width, height * len(lines)), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((0, number * height), line, fill=colour, font=font)
    return picture


def _short(text: str, longest: int) -> str:
    """A text of a stranger on one line, cut."""
    return quoted(" ".join(text[: 4 * longest].split()), longest)[1:-1]


def _stack(blocks: list[Image.Image], width: int, gap: int = GAP) -> Image.Image:
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    picture, top = Image.new("RGB", (width, height), "white"), 0
    for block in blocks:
        picture.paste(block, (0, top))
        top += block.height + gap
    return picture


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    picture = Image.new("RGB", (left.width + GAP + right.width, max(left.height, right.height)), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + GAP, 0))
    return picture
