"""A strip of images with a label under each: what each was steered with."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

# Pillow rather than matplotlib: ComfyUI itself requires it, it measures and draws text in whole pixels, which a strip
# of images is made of, and its own font scales to any size. Only labels are drawn; the images are copied untouched.
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..concepts import image_labels

MAX_COLUMNS, MAX_WIDTH = 12, 4096
SMALLEST_TEXT = 13
INK = (31, 31, 31)
# Pillow's own font is Latin only. The first of these that has a label's letters draws it: by file name, as Pillow looks
# them up in the system's font folders.
WIDER_FONTS = (
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "ヒラギノ角ゴシック W3.ttc",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
)


def label_strips(batches: list[torch.Tensor], assignments: list[str]) -> list[torch.Tensor]:
    """The strip of each batch, or one strip of a list of single images.

    Single images with one assignment are taken to be a batch that was split, so image i has line i. Batches of more
    each begin with the first line.

    Args:
        batches: one or more `[B, H, W, C]`, as `label_strip` takes them.
        assignments: their texts; where there are fewer of one than of the other, the last is used again.

    Raises:
        ValueError: as `concepts.image_labels` does.
    """
    if len(assignments) == 1 and all(len(batch) == 1 for batch in batches):
        shares = image_labels(assignments[0], len(batches))
        if len({batch.shape for batch in batches}) == 1:
            return [label_strip(torch.cat(batches), shares)]
        return [label_strip(batch, [texts]) for batch, texts in zip(batches, shares, strict=True)]
    count = max(len(batches), len(assignments))
    batches = batches + batches[-1:] * (count - len(batches))
    assignments = assignments + assignments[-1:] * (count - len(assignments))
    return [
        label_strip(batch, image_labels(text, len(batch))) for batch, text in zip(batches, assignments, strict=True)
    ]


def label_strip(images: torch.Tensor, shares: list[list[str]]) -> torch.Tensor:
    """The images side by side, each over its label; more than fit into 4096 pixels or 12 columns make further rows.

    Args:
        images: `[B, H, W, C]`, C at least 3 (what follows RGB is dropped), in [0, 1].
        shares: what each image was steered with, as `concepts.image_labels` gives it; empty for nothing.

    Returns:
        `[1, H', W', 3]`, float32 in [0, 1], white where there is neither image nor letter.
    """
    labels = [", ".join(texts) or "nothing" for texts in shares]
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
        strip[below : top + cell_height, left : left + cell_width] = _text_image(text, font, line_height, box)
    return strip[None]


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
    """The first font that has all the letters of the text, or Pillow's own. `size` in pixels."""
    own = _own_font(size)
    if _has_letters(own, text):
        return own
    others = (_font(name, size) for name in (_matplotlib_font(), *WIDER_FONTS))
    return next((font for font in others if font is not None and _has_letters(font, text)), own)


@cache
def _own_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # a Pillow built without FreeType
        raise ValueError("Label Strip needs a Pillow with FreeType; install Pillow from PyPI.")
    return font


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@cache
def _matplotlib_font() -> str:
    """Path of DejaVu Sans, which comes with matplotlib: Greek, Cyrillic and more, but not Chinese or Japanese."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    def pixels(letter: str) -> bytes:
        mask: Any = font.getmask(letter)
        return bytes(mask)

    missing = pixels("\uffff")  # no character, so this is the box that stands for one not in the font
    return all(letter.isspace() or pixels(letter) != missing for letter in set(text))


def _pieces(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The pieces that stay on one line: each concept with its number, or, of one too wide for that, each word."""
    pieces = [piece for piece in text.split(", ") if piece]
    commas = [f"{piece}," for piece in pieces[:-1]] + pieces[-1:]
    return [word for piece in commas for word in ([piece] if font.getlength(piece) <= width else piece.split())]


def _text_image(
    lines: list[str], font: ImageFont.FreeTypeFont, line_height: int, size: tuple[int, int]
) -> torch.Tensor:
    """`[height, width, 3]` with the lines centred, from the top."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((size[0] / 2, number * line_height), line, fill=INK, font=font, anchor="ma")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
