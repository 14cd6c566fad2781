"""Pictures beside the tables of the evaluations: rows of images, and bars with their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from hspace.viewing.strip import font_for

PER_ROW = 10
NAME_WIDTH, TEXT_SIZE, GAP = 200, 16, 4


def image_rows(rows: dict[str, torch.Tensor], path: Path) -> None:
    """A JPEG with a row for each name: the first ten of its images `[n, H, W, 3]`, in columns of the same seeds."""
    columns = min(PER_ROW, *map(len, rows.values()))
    images = torch.cat([row[:columns] for row in rows.values()]).movedim(-1, 1).float()
    grid = to_pil_image((make_grid(images, columns, GAP, pad_value=1.0) * 255).round().byte())
    sheet = Image.new("RGB", (NAME_WIDTH + grid.width, grid.height), "white")
    sheet.paste(grid, (NAME_WIDTH, 0))
    canvas, font, height = ImageDraw.Draw(sheet), font_for("".join(rows), TEXT_SIZE), images.shape[2]
    for number, name in enumerate(rows):
        middle = GAP + number * (height + GAP) + height / 2
        canvas.multiline_text((GAP, middle), name.replace(", ", ",\n"), fill="black", font=font, anchor="lm")
    sheet.save(path, quality=88)


def bars(panels: dict[str, list[tuple[str, float, float, float]]], label: str, path: Path) -> None:
    """A PNG with a panel for each title: bars of (name, value, low, high)."""
    figure = Figure(figsize=(4.2 * len(panels), 3.6), dpi=110, layout="constrained")
    for axes, (title, entries) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        names, values, lows, highs = zip(*entries, strict=True)
        errors = np.abs(np.array([lows, highs]) - np.array(values))
        axes.barh(names, values, xerr=errors, color="#5b8db8", capsize=3)
        axes.invert_yaxis()
        axes.set(title=title, xlabel=label, xlim=(0, None))
        axes.grid(alpha=0.3, axis="x")
    figure.savefig(path)
