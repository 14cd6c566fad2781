"""The picture beside a vector file, where model libraries and managers look for one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from .writing import create_if_free

LONGEST_SIDE = 1024
"""Pixels; larger pictures are made smaller."""


def save_preview(pixels: np.ndarray, vector_path: Path) -> bool:
    """Write a picture as a PNG of the vector file's name; False, and nothing written, where there is such a file.

    Args:
        pixels: float `[H, W, 3]` in [0, 1]; values outside are clipped.
        vector_path: of the vector's file, e.g. `woman.safetensors`; the picture becomes `woman.png`.

    Raises:
        OSError: the file could not be written.
    """
    picture = Image.fromarray((pixels[..., :3].clip(0, 1) * 255).round().astype(np.uint8))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return create_if_free(vector_path.with_suffix(".png"), content.getvalue())
