"""Texts of strangers in messages: on one line, and short."""

from __future__ import annotations

import hashlib
import re

NOT_IN_ONE_LINE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters, line breaks, marks that reverse the direction of writing, and halves of characters."""
LONGEST_DESCRIPTION = 50_000
"""Characters. Of what is longer, the beginning is kept, and a digest of the whole."""
_BREAKS = re.compile(f"[{NOT_IN_ONE_LINE}]+")


def shortened(text: object, longest: int = 200) -> str:
    """A text on one line of at most so many characters, such as what a library's error quotes of a stranger's file."""
    flat = _BREAKS.sub(" ", str(text)[: longest + 1])
    return flat if len(flat) <= longest else f"{flat[:longest]}…"


def quoted(text: object, longest: int = 60) -> str:
    """A text of a stranger in quotes, on one line and shortened, for messages."""
    return f"'{shortened(text, longest)}'"


def bounded(text: str) -> str:
    """A text that may be of any length, as one of at most `LONGEST_DESCRIPTION` characters."""
    if len(text) <= LONGEST_DESCRIPTION:
        return text
    return f"{text[:500]} … ({hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]})"
