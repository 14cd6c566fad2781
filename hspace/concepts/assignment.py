"""Assignments: the shares that each image of a batch is steered with, and their text between nodes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from .finite import check_finite

EVERY_IMAGE = "every image"
_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan)"
_SHARE = re.compile(rf'(?P<name>"(?:[^"\\]|\\.)*"|[^"].*?) x (?P<start>{_NUMBER})(?: to (?P<end>{_NUMBER}))?(?:, |$)')
_LINE = re.compile(rf"(?P<image>\d+|{EVERY_IMAGE}): (?P<shares>.+)")
_AMBIGUOUS = re.compile(rf'^"|^$| x {_NUMBER}(?:[\s,]|$)')
"""Names that are quoted in the text, since they could be read as more than a name."""


@dataclass(frozen=True)
class Share:
    """An image's share of one vector: `start` for the first image of a batch, `end` for the last."""

    name: str
    start: float
    end: float

    def __str__(self):
        name = " ".join(self.name.split())
        name = json.dumps(name, ensure_ascii=False) if _AMBIGUOUS.search(name) else name
        return f"{name} x {self.start:g}" if self.start == self.end else f"{name} x {self.start:g} to {self.end:g}"

    def label(self, fraction: float) -> str:
        """The share of the image at this fraction of the batch, e.g. "woman x 0.667", rounded to three decimals."""
        value = self.start
        if self.start != self.end:
            value = round(self.start + (self.end - self.start) * fraction, 3) + 0.0  # + 0.0: no "-0"
        return f"{' '.join(self.name.split())} x {value:g}"


@dataclass(frozen=True)
class Assignment:
    """The shares of each image, or one entry for all images.

    `str()` gives the text that travels through a graph, and `parse` reads it:

        0: woman x 1                      an entry an image
        1: man x 1, dark skin x 0.5
        every image: woman x -1 to 2      one entry; from the first image of the batch to the last

    Args:
        entries: the shares of each image; where `per_image` is false, one entry. Shares of 0 are left out of the text.
        per_image: true where images differ.
    """

    entries: tuple[tuple[Share, ...], ...]
    per_image: bool

    def __str__(self):
        lines = []
        for index, shares in enumerate(self.entries):
            texts = [str(share) for share in shares if share.start or share.end]
            lines.append(f"{index if self.per_image else EVERY_IMAGE}: {', '.join(texts) or 'nothing'}")
        return "\n".join(lines)


def image_labels(text: str, count: int) -> list[list[str]]:
    """The shares of each of `count` images as texts such as "woman x 1"; an empty list for nothing.

    Args:
        text: of one `Assignment`, or of several, one below the other, as chained Apply nodes give them.
        count: at least 1.

    Raises:
        ValueError: a line is of another form, or an image has no line.
    """
    shares: dict[str, list[Share]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        image, listed = _parse_line(line)
        shares.setdefault(image, []).extend(listed)
    if not shares:
        raise ValueError("assignment: it is empty. Connect the output 'assignment' of Apply H-Space Steering.")
    numbered = shares.keys() - {EVERY_IMAGE}
    if numbered and not numbered >= {str(index) for index in range(count)}:
        raise ValueError(
            f"assignment: it lists {len(numbered)} images, and there are {count} images. Connect the assignment of the "
            "Apply node that steered them; it lists 64 images at most, so split a larger batch."
        )
    return [
        [share.label(index / max(1, count - 1)) for share in shares.get(EVERY_IMAGE, []) + shares.get(str(index), [])]
        for index in range(count)
    ]


def _parse_line(line: str) -> tuple[str, list[Share]]:
    match = _LINE.fullmatch(line)
    shares = _parse_shares(match["shares"]) if match else None
    if match is None or shares is None:
        raise ValueError(
            f"assignment: '{line[:80]}' is no line of an assignment like '0: woman x 1' or 'every image: woman x 2'. "
            "Connect the output 'assignment' of Apply H-Space Steering."
        )
    for share in shares:
        check_finite("assignment", [share.start, share.end])
    return match["image"], shares


def _parse_shares(text: str) -> list[Share] | None:
    """The shares that a line lists; None where it is none."""
    shares, place = [], 0
    if text == "nothing":
        return shares
    while place < len(text):
        share = _SHARE.match(text, place)
        if share is None:
            return None
        try:
            name = json.loads(share["name"]) if share["name"].startswith('"') else share["name"]
        except ValueError:  # quoted by hand, with an escape that JSON does not know
            return None
        shares.append(Share(name, float(share["start"]), float(share["end"] or share["start"])))
        place = share.end()
    return shares
