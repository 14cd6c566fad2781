"""A strip of images with a label under each, made from what Apply says it gave them."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

# Pillow rather than matplotlib: ComfyUI itself requires it, it measures and draws text in whole pixels, which a strip of
# images is made of, and its own font scales to any size. Only labels are drawn; the images are copied untouched.
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

MAX_COLUMNS, MAX_WIDTH = 12, 4096
SMALLEST_TEXT = 13
INK = (31, 31, 31)
# Pillow's own font is Latin only. The first of these that has a label's letters draws it: by file name, as Pillow looks
# them up in the system's font folders.
WIDER_FONTS = (
    "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "ヒラギノ角ゴシック W3.ttc",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc",
)  # fmt: skip
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
GIVEN = re.compile(rf" x ({NUMBER})(?: to ({NUMBER}))?(?=, |$)")
LINE = re.compile(rf"(?P<image>\d+|every image): (?P<given>nothing|.+ x {NUMBER}(?: to {NUMBER})?)")


def label_strip(images: torch.Tensor, assignment: str) -> torch.Tensor:
    """The images side by side, each over its label; more than fit into 4096 pixels or 12 columns make further rows.

    Args:
        images: `[B, H, W, C]`, C at least 3 (what follows RGB is dropped), in [0, 1].
        assignment: as `Concept.assignment` writes it; see `image_labels`.

    Returns:
        `[1, H', W', 3]`, float32 in [0, 1], white where there is neither image nor letter.

    Raises:
        ValueError: the assignment is not one, or is of fewer images.
    """
    labels = image_labels(assignment, len(images))
    images = images[..., :3].float().cpu()
    height, width = images.shape[1:3]
    size = max(SMALLEST_TEXT, min(height, width) // 18)
    gap = size // 2
    cell_width = max(width, 8 * size)
    font = font_for("".join(labels), size)
    lines = [wrap(label, font, cell_width) for label in labels]
    line_height = sum(font.getmetrics())
    cell_height = height + gap // 2 + line_height * max(map(len, lines))
    columns, rows = grid(len(images), cell_width + gap)
    strip = torch.ones(rows * (cell_height + gap) + gap, columns * (cell_width + gap) + gap, 3)
    for index, (image, text) in enumerate(zip(images, lines, strict=True)):
        top = gap + index // columns * (cell_height + gap)
        left = gap + index % columns * (cell_width + gap)
        below = top + height + gap // 2
        margin = left + (cell_width - width) // 2
        strip[top : top + height, margin : margin + width] = image
        box = (cell_width, top + cell_height - below)
        strip[below : top + cell_height, left : left + cell_width] = _drawn(text, font, line_height, box)
    return strip[None]


def image_labels(assignment: str, count: int) -> list[str]:
    """What each of `count` images was given, e.g. "woman x 1, dark x 0.5" or "nothing".

    Args:
        assignment: lines "0: woman x 1", one an image, or "every image: woman x 2". "x -1 to 2" runs evenly from the
            first image to the last, and each label has its own number, rounded to three decimals. Where several lines are
            about one image (the texts of chained Apply nodes, joined), its label has them all.
        count: at least 1.

    Raises:
        ValueError: a line is of another form, or an image has no line.
    """
    given: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, assignment.splitlines())):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"assignment: '{line[:80]}' is no line of an assignment like '0: woman x 1' or 'every image: woman x 2'. "
                "Connect the output 'assignment' of Apply H-Space Steering."
            )
        given.setdefault(match["image"], []).append(match["given"])
    if not given:
        raise ValueError("assignment: it is empty. Connect the output 'assignment' of Apply H-Space Steering.")
    numbered = given.keys() - {"every image"}
    if numbered and not numbered >= {str(index) for index in range(count)}:
        raise ValueError(
            f"assignment: it says what {len(numbered)} images are given, and there are {count} images. Connect the "
            "assignment of the Apply node that steered them; it lists 64 images at most, so split a larger batch."
        )
    labels = []
    for index in range(count):
        parts = given.get("every image", []) + given.get(str(index), [])
        label = ", ".join(part for part in parts if part != "nothing") or "nothing"
        labels.append(_at(label, index / max(1, count - 1)))
    return labels


def grid(count: int, cell_width: int) -> tuple[int, int]:
    """Columns and rows for so many cells: as few rows as the limits allow, and all about equally long."""
    most = max(1, min(MAX_COLUMNS, MAX_WIDTH // cell_width))
    rows = math.ceil(count / most)
    columns = math.ceil(count / rows)
    return columns, math.ceil(count / columns)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, unless a single letter is wider.

    Nothing is cut: lines break after a comma where they can, else between words, else within a word.
    """
    lines = [""]
    for piece in _pieces(text, font, width):
        longer = f"{lines[-1]} {piece}" if lines[-1] else piece
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in piece:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has all the letters of the text; Pillow's own where none has. `size` in pixels."""
    own = _font(None, size)
    if _has_letters(own, text):
        return own
    others = (_font(name, size) for name in (_matplotlib_font(), *WIDER_FONTS))
    return next((font for font in others if font is not None and _has_letters(font, text)), own)


@cache
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@cache
def _matplotlib_font() -> str:
    """DejaVu Sans, which comes with matplotlib on every system: Greek, Cyrillic and more, but not Chinese or Japanese."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask("\uffff"))  # no character, so this is the box that stands for one not in the font
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in set(text))


def _pieces(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """What is kept on one line: each concept with its number, or, of one too wide for that, each word."""
    given = [piece for piece in text.split(", ") if piece]
    commas = [f"{piece}," for piece in given[:-1]] + given[-1:]
    return [word for piece in commas
            for word in ([piece] if font.getlength(piece) <= width else piece.split())]  # fmt: skip


def _at(label: str, fraction: float) -> str:
    """The label with each "a to b" replaced by the number at that fraction of the way."""

    def number(match: re.Match) -> str:
        if match[2] is None:
            return match[0]
        start, end = float(match[1]), float(match[2])
        value = round(start + (end - start) * fraction, 3) + 0.0  # + 0.0: no "-0"
        return f" x {value:g}"

    return GIVEN.sub(number, label)


def _drawn(lines: list[str], font: ImageFont.FreeTypeFont, line_height: int, size: tuple[int, int]) -> torch.Tensor:
    """`[height, width, 3]` with the lines centred, from the top."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((size[0] / 2, number * line_height), line, fill=INK, font=font, anchor="ma")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
