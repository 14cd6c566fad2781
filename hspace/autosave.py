"""The file that keeps an unfinished discovery, so that neither a cancel nor a crash loses what it has found."""

from __future__ import annotations

import time
from pathlib import Path

from .concept import Direction
from .library import PARTIAL, new_vector_path
from .vector_file import save_direction

EVERY = 60.0
"""Seconds from one save to the next."""


class PartialFile:
    """`partial/<name>.safetensors` in the user's folder: chosen at the first save, overwritten by later ones."""

    def __init__(self, name: str):
        self.name = name
        self.path: Path | None = None
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last save, or the beginning, is long enough ago."""
        return time.monotonic() - self._saved_at >= EVERY

    def save(self, direction: Direction) -> Path:
        """Write the direction with what is needed to go on; the old file stays until the new one is whole."""
        self.path = save_direction(direction, self.path or new_vector_path(f"{PARTIAL}/{self.name}"))
        self._saved_at = time.monotonic()
        return self.path

    def discard(self) -> None:
        """Remove the file, where there is one: the discovery came to its end."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None
