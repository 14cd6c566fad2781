"""What the evaluations show beside their tables: rows of images, and bars with their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..hspace.strip import font_for

PER_ROW = 10
NAME_WIDTH, TEXT_SIZE, GAP = 200, 16, 4


def image_rows(rows: dict[str, torch.Tensor], path: Path) -> None:
    """A JPEG with a row for each name: the first ten of its images `[n, H, W, 3]`, in columns of the same seeds."""
    height, width = next(iter(rows.values())).shape[1:3]
    size = NAME_WIDTH + PER_ROW * (width + GAP), len(rows) * (height + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), font_for("".join(rows), TEXT_SIZE)
    for number, (name, images) in enumerate(rows.items()):
        top = number * (height + GAP)
        words = name.replace(", ", ",\n")
        draw.multiline_text((GAP, top + height / 2), words, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images[:PER_ROW]):
            pixels = (image * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (NAME_WIDTH + column * (width + GAP), top))
    sheet.save(path, quality=88)


def bars(panels: dict[str, list[tuple[str, float, float, float]]], label: str, path: Path) -> None:
    """A PNG with a panel for each title: bars of (name, value, low, high)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.6), dpi=110, layout="constrained")
    for axes, (title, entries) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        names, values, lows, highs = zip(*entries, strict=True)
        errors = np.abs(np.array([lows, highs]) - np.array(values))
        axes.barh(names, values, xerr=errors, color="#5b8db8", capsize=3)
        axes.invert_yaxis()
        axes.set(title=title, xlabel=label, xlim=(0, None))
        axes.grid(alpha=0.3, axis="x")
    FigureCanvasAgg(figure).print_png(path)
