"""Read files of strangers into memory: nothing stays mapped, so that no change of a file reaches a loaded vector."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import torch

from .names import quoted

MAX_BYTES = 256 * 2**20


def read_file(path: Path, longest: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        ValueError: there is no such file, it is larger than `longest` bytes, cannot be read, or changes meanwhile.
    """
    name = quoted(path.name)
    try:
        if not path.is_file():
            raise ValueError(f"{name} is not there; it was moved or deleted. Choose another file.")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise ValueError(f"{name} is no plain file; choose another one.")
            if before.st_size > longest:
                raise ValueError(
                    f"{name} is larger than {longest / 2**20:g} MiB, which no file of this kind is; choose another one."
                )
            content = file.read(before.st_size + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{name} cannot be read ({error.strerror}); allow ComfyUI to read it, or choose another file."
        ) from error
    if not len(content) == before.st_size == after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise ValueError(f"{name} changed while it was read; try again when it is complete.")
    return content


def check_finite(name: str, *tensors: torch.Tensor) -> None:
    """Raise ValueError where a tensor has a value that is not finite."""
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ValueError(f"{name} has values that are not finite; find or download it again.")
