"""Requests taken out of a prompt, where that leaves the rest as it was.

A request goes with its whole list ("no weapons, armour or helmet"), or it stays: what was refused must not be left
standing without its negation. A request that is a subject itself ("a man or a woman, reading") stays too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .topics import Request

_REACH = 12
"""How many words may lead up to a request ("I would like to see no weapons")."""
_OPEN, _CLOSE = "([{\uff08", ")]}\uff09"
_LINKS = ",;:\uff0c\u3001\uff1b\uff1a"  # the last four are the wide ones of Chinese and Japanese
_SEPARATORS, _ENDS = _LINKS + "|\u2013\u2014-", ".!?\u3002\uff01\uff1f"
_WIDE = "\u2e80"  # from here on are scripts without spaces


def remove(text: str, requests: Iterable[Request]) -> str:
    """The text without those requests that can be taken out; all else, spaces and line breaks included, stays."""
    cuts, kept = [], []
    reading, done = None, 0
    for request in _joined(requests):
        if request.reading is reading and request.first < done:
            continue  # part of the list that another begins
        whole = _with_list(request)
        reading, done = whole.reading, whole.last
        cut = _phrase(request, whole.last)
        (kept if cut is None else cuts).append(whole.span if cut is None else cut)
    kept.sort()
    pieces, place, held = _Text(), 0, 0
    for start, end in _merged(cuts):
        while held < len(kept) and kept[held][1] <= start:
            held += 1
        cut_in_two = False
        while held < len(kept) and kept[held][0] < end:
            cut_in_two |= kept[held][0] < start or kept[held][1] > end
            held += 1
        if cut_in_two:
            held -= 1  # it may reach into the next cut too
            continue
        pieces.add(text[place:start])
        place = pieces.close_gap(text, end)
    pieces.add(text[place:])
    return pieces.text() if place else text


def _joined(requests: Iterable[Request]) -> list[Request]:
    """Requests that share words as one: "of any gender and age" asks for two things."""
    joined: list[Request] = []
    for request in sorted(requests, key=lambda request: (id(request.reading), request.first)):
        last = joined[-1] if joined else None
        if last is not None and last.reading is request.reading and request.first < last.last:
            joined[-1] = Request(last.language, last.reading, last.first, max(last.last, request.last))
        else:
            joined.append(request)
    return joined


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _with_list(request: Request) -> Request:
    """The request with the rest of the list that it begins: "no weapons, armour or helmet"."""
    rules, symbols, last = request.language.removal, request.reading.symbols, request.last
    if not rules["refusing"].match(symbols, request.first):
        return request
    last = _end(rules["list"], symbols, _end(rules["more"], symbols, last))
    return Request(request.language, request.reading, request.first, last)


def _phrase(request: Request, last: int) -> tuple[int, int] | None:
    """Start and end in the text of what goes with a request up to a symbol, or None where it has to stay."""
    rules, symbols = request.language.removal, request.reading.symbols
    refusing = rules["refusing"].match(symbols, request.first)
    if refusing:
        if rules["unclear"].match(symbols, last) and not _repeats(request):
            return None
    elif rules["inner"].search(symbols, request.first, last):
        return None
    opened, first = _beginning(request)
    if first is None:
        return None
    after = rules["after_refusal" if refusing else "after"]
    for end in (_end(rules["tail"], symbols, last), last):
        if end == len(symbols) or rules["boundary"].match(symbols, end) or (opened and after.match(symbols, end)):
            return request.reading.starts[first], request.reading.ends[end - 1]
    return None


def _end(pattern: re.Pattern, symbols: str, place: int) -> int:
    match = pattern.match(symbols, place)
    return match.end() if match else place


def _repeats(request: Request) -> bool:
    """Whether the clause before is refused too: who says "no hat, no sword, gold and silver" says "no" each time."""
    rules, symbols = request.language.removal, request.reading.symbols
    before = max(request.first - _REACH, 0)
    return rules["repeated"].search(symbols, before, request.first) is not None


def _beginning(request: Request) -> tuple[bool, int | None]:
    """Where the phrase around a request begins, and whether a preposition or a pronoun opens it."""
    rules, symbols = request.language.removal, request.reading.symbols
    place, opener, pronoun = request.first, None, None
    opening = rules["opener_of_refusal" if rules["refusing"].match(symbols, place) else "opener"]
    if opening.match(symbols, place):
        opener = place
    for _ in range(_REACH):
        if place == 0 or rules["boundary"].match(symbols, place - 1):
            opened = opener == place and not rules["refusing"].match(symbols, request.first)
            return opened, None if _is_subject(request, place) else place
        if not rules["lead"].match(symbols, place - 1):
            break
        place -= 1
        if opening.match(symbols, place):
            opener = place
        if rules["relative"].match(symbols, place):
            pronoun = place
    if pronoun is not None:
        return False, pronoun
    for back in range(place, max(place - 4, 0), -1):
        if rules["boundary"].match(symbols, back - 1):
            break
        if rules["relative"].match(symbols, back - 1):
            return False, back - 1
    if rules["subject"].search(symbols, request.first, request.last):
        return False, None
    if rules["apposed"].match(symbols, request.first) and rules["person"].match(symbols, place - 1):
        return False, request.first
    if opener is None or (opener and rules["verb"].match(symbols, opener - 1)):
        return False, None
    return True, opener


def _is_subject(request: Request, first: int) -> bool:
    """Whether the request names people and nothing before it in its line does."""
    rules, symbols = request.language.removal, request.reading.symbols
    if not rules["subject"].search(symbols, request.first, request.last):
        return False
    if any(not rules["article"].match(symbols, place) for place in range(first, request.first)):
        return False
    return rules["named"].search(symbols, max(first - 4 * _REACH, 0), first) is None


class _Text:
    """What is left of a text, as characters: the end changes where a gap closes."""

    def __init__(self):
        self._characters: list[str] = []

    def add(self, piece: str) -> None:
        self._characters += piece

    def text(self) -> str:
        return "".join(self._characters)

    def close_gap(self, text: str, place: int) -> int:
        """Drop what a request leaves behind on both sides of it; returns where the rest of `text` begins."""
        left = self._characters
        while True:
            while left and left[-1] in " \t_":
                left.pop()
            place = _skip(text, place, " \t_")
            after = _skip_weight(text, place)
            if left and left[-1] in _OPEN and after < len(text) and text[after] in _CLOSE:
                left.pop()
                if left and left[-1] == "\\":
                    left.pop()
                place = after + 1
            elif text[place : place + 2] in ("\\)", "\\]") and left and left[-1] in _OPEN:
                place += 1
            else:
                break
        if left and left[-1] in ",;" and place < len(text) and text[place] == "|":
            left.pop()
        begins = not left or left[-1] in _OPEN or left[-1] in _ENDS or left[-1] == "\n"
        separated = begins or left[-1] in _SEPARATORS
        while separated and place < len(text) and (text[place] in _SEPARATORS or (begins and text[place] in _ENDS)):
            place = _skip(text, place + 1, " \t")
        ends = place >= len(text) or text[place] in _CLOSE or text[place] in _ENDS or text[place] == "\n"
        while ends and left and left[-1] in _SEPARATORS + " ":
            left.pop()
        if (not left or left[-1] == "\n") and (place >= len(text) or text[place] == "\n"):
            if place < len(text):
                place += 1
            else:
                while left and left[-1] == "\n":
                    left.pop()
        elif left and left[-1] not in _OPEN + "\n" and not ends and text[place] not in _LINKS and left[-1] < _WIDE:
            left.append(" ")
        return place


def _skip(text: str, place: int, characters: str) -> int:
    while place < len(text) and text[place] in characters:
        place += 1
    return place


def _skip_weight(text: str, place: int) -> int:
    """The place after the weight of an emphasis, ":1.2", if one begins here."""
    if place < len(text) and text[place] in ":\uff1a":
        end = _skip(text, place + 1, "+-.0123456789 ")
        return end if end < len(text) and text[end] in _CLOSE else place
    return place
