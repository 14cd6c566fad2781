"""The file that keeps an unfinished discovery, so that neither a cancel nor a crash loses its vector."""

from __future__ import annotations

import time
from pathlib import Path

from ..concepts import Vector
from .folder import vector_path
from .names import renamed, safe_name
from .vector_file import save_concept
from .writing import check_folder, remove_file

PARTIAL = "partial"
"""Subfolder of the user's folder."""
EVERY = 20.0
"""Seconds from one save to the next."""


class PartialFile:
    """`partial/<name>.safetensors` in the user's folder: chosen at the first save, overwritten by later ones.

    The file's name is `safe_name` of the concept's. The file is whole at any moment, and nobody else's is overwritten.
    """

    def __init__(self, name: str):
        self.name = safe_name(name)
        self.renamed = renamed(name, self.name)
        """What to say of the file's name; "" where it is the concept's."""
        self.path: Path | None = None
        self._tried_at = time.monotonic()

    @property
    def due(self) -> bool:
        """True where the last attempt to save, or the beginning, is `EVERY` seconds ago or more."""
        return time.monotonic() - self._tried_at >= EVERY

    def check(self) -> None:
        """Make the folder where there is none, and see whether files can be written to it.

        Raises:
            OSError: they cannot; says why.
        """
        check_folder(vector_path(f"{PARTIAL}/{self.name}").parent)

    def save(self, vector: Vector) -> Path:
        """Write the vector with what is needed to go on; the old file stays until the new one is whole.

        Raises:
            OSError: it could not be written; `due` is false for a while.
            ValueError: the vector is nothing that could be loaded again.
        """
        self._tried_at = time.monotonic()
        if self.path is None:
            self.path = save_concept(vector, vector_path(f"{PARTIAL}/{self.name}"), overwrite=False)
        else:
            save_concept(vector, self.path)
        return self.path

    def discard(self) -> None:
        """Remove the file, where there is one: the discovery came to its end.

        Raises:
            OSError: it could not be removed; it is still whole.
        """
        if self.path is not None:
            remove_file(self.path)
            self.path = None
