"""Names of concepts and of files: what may be one, and what becomes of those that may not.

Names come from workflows and files of strangers. A concept's name is shown to people; a file's name has to suit every
file system, that of the next user included.
"""

from __future__ import annotations

import re

from ..concepts import NOT_IN_ONE_LINE, quoted

MAX_NAME = 200
"""Characters of a concept's name."""
MAX_FILE_NAME = 200
"""UTF-8 bytes of a file's name, which leaves room for a number and the suffix below the usual limit of 255."""
MAX_FOLDERS = 8
"""Folders of a prefix such as `sd15/people/woman`, its last part included."""
UNNAMED = "unnamed"
_NOT_IN_NAMES = re.compile(f"[{NOT_IN_ONE_LINE}]+")
_NOT_IN_FILE_NAMES = re.compile(f'[<>:"/\\\\|?*{NOT_IN_ONE_LINE}]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)[ ]*(?:\..*)?", re.IGNORECASE)
"""Names of devices, which Windows opens instead of a file, whatever the suffix."""


def is_name(text: object) -> bool:
    """True for the name of a concept: one line of 1 to `MAX_NAME` characters that is not blank."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_NAME
        and bool(text.strip())
        and _NOT_IN_NAMES.search(text) is None
    )


def safe_concept_name(text: str) -> str:
    """The name of a concept that comes nearest to a text; the text itself where it is one."""
    if is_name(text):
        return text
    flat = " ".join(_NOT_IN_NAMES.sub(" ", text[: 4 * MAX_NAME]).split())
    return (flat if len(flat) <= MAX_NAME else flat[: MAX_NAME - 1] + "…") or UNNAMED


def safe_name(text: str) -> str:
    """The name of one file, without a suffix, that comes nearest to a text; the text itself where it is one.

    It is no path: slashes become `_`. It is at most `MAX_FILE_NAME` bytes long and cut between characters, and it is
    neither `.` nor `..` nor a name that Windows reserves.
    """
    flat = _NOT_IN_FILE_NAMES.sub("_", text.strip()[: MAX_FILE_NAME + 100]).strip(". ")
    if _RESERVED.fullmatch(flat):
        flat = f"_{flat}"
    cut = flat.encode()[:MAX_FILE_NAME].decode(errors="ignore")
    return cut.rstrip(". \u200d") or UNNAMED


def safe_prefix(prefix: str) -> str:
    """A file prefix such as `sd15/woman` with each of its parts as `safe_name` has it, parted by `/`.

    Raises:
        ValueError: it is blank, absolute, leads out of its folder by `..`, or has more than `MAX_FOLDERS` parts.
    """
    if not isinstance(prefix, str) or not prefix.strip():
        raise ValueError("filename_prefix: it is blank; give a file name such as 'woman' or 'sd15/woman'.")
    parts = [part.strip() for part in re.split(r"[\\/]", prefix.strip())]
    named = [part for part in parts if part not in ("", ".")]
    if parts[0] == "" or ".." in parts or not named or re.fullmatch("[a-zA-Z]:", parts[0]):
        raise ValueError(
            f"filename_prefix: {quoted(prefix)} leads out of the folder for concept vectors, or names no file; use a "
            "file name such as 'woman' or 'sd15/woman'."
        )
    if len(named) > MAX_FOLDERS:
        raise ValueError(f"filename_prefix: {quoted(prefix)} has {len(named)} parts; use at most {MAX_FOLDERS}.")
    return "/".join(safe_name(part) for part in named)


def renamed(wanted: str, used: str) -> str:
    """What to say where a name was made safe; "" where it is used as it is, but for the kind of slashes."""
    if wanted.strip().replace("\\", "/") == used or wanted == used:
        return ""
    return f"{quoted(wanted)} is not a name that works everywhere; {quoted(used, MAX_NAME)} is used instead."
