"""The file that keeps an unfinished discovery, so that neither a cancel nor a crash loses its vector."""

from __future__ import annotations

import time
from pathlib import Path

from ..concepts import Vector
from .folder import new_vector_path
from .vector_file import save_concept

PARTIAL = "partial"
"""Subfolder of the user's folder."""
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
        """True where the last save, or the beginning, is `EVERY` seconds ago or more."""
        return time.monotonic() - self._saved_at >= EVERY

    def save(self, vector: Vector) -> Path:
        """Write the vector with what is needed to go on; the old file stays until the new one is whole."""
        self.path = save_concept(vector, self.path or new_vector_path(f"{PARTIAL}/{self.name}"))
        self._saved_at = time.monotonic()
        return self.path

    def discard(self) -> None:
        """Remove the file, where there is one: the discovery came to its end."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None
