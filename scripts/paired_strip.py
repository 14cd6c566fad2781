"""The picture that says it all: plain images above, steered ones of the same seeds below."""

from __future__ import annotations

from PIL import Image

COLUMNS, SCALE = 8, 2


def paired_strip(rows: list[list[Image.Image]]) -> Image.Image:
    """The first eight images of each row, all of one size, at twice that size; a column for each seed."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (COLUMNS * width, len(rows) * height))
    for number, images in enumerate(rows):
        for column, image in enumerate(images[:COLUMNS]):
            sheet.paste(image, (column * width, number * height))
    return sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.LANCZOS)
