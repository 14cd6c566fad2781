"""Read files of strangers into memory: nothing stays mapped, so that no change of a file reaches a loaded vector."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from ..concepts import quoted

MAX_BYTES = 256 * 2**20
MAX_BRACKETS = 50_000
"""In JSON, those inside of texts included; a million nested lists take seconds."""
MAX_DIGITS = 18
GET_ANOTHER = "Find or download it again."
"""What to do with a file whose values are not finite."""


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


def parse_json(content: bytes) -> object:
    """The value of JSON in UTF-8 whose objects have no key twice; an integer of very many digits becomes None.

    Raises:
        ValueError: it is none; the message is not for people.
    """
    if content.count(b"[") + content.count(b"{") > MAX_BRACKETS:
        raise ValueError("too many brackets")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_repeats, parse_int=_small_integer)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON. Readers differ in which of two equal keys they take, so there may be none."""
    if len(entries := dict(pairs)) != len(pairs):
        raise ValueError("repeated key")
    return entries


def _small_integer(digits: str) -> int | None:
    """Python takes long over thousands of digits, and refuses more of them in words of its own."""
    return int(digits) if len(digits) <= MAX_DIGITS else None
