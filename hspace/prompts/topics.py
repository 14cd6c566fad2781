"""Topics of Prompt Rule: the wording in a prompt that requests each of them.

Gender, race and age match where the writer leaves them open or asks for variety ("of any gender", "of diverse
ethnicity", "young and old"); a stated trait or a subject ("a woman of Nigerian descent", "men and women, dancing") is
no such request. Sexual and violence match where the writer refuses them ("no nudity", "non-violent", "keep guns out of
the picture"); a scene that only mentions them does not match.

The scan is in the manner of NegEx (Chapman et al., 2001): triggers ("no", "avoid"), pseudo-triggers ("no longer", "not
without"), targets ("guns") and terminators ("with", a full stop). The words and the patterns are in `data/`, a file a
language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from .language import Language, Reading, language, read

PRESETS = ("gender", "race", "age", "sexual", "violence")
_LATIN, _KANA, _HAN = re.compile("[a-zA-Z]"), re.compile("[\u3041-\u30ff]"), re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True)
class Request:
    """A request in a text: its first symbol and the one after its last, in the reading of a language."""

    language: Language
    reading: Reading
    first: int
    last: int

    @property
    def span(self) -> tuple[int, int]:
        """Start and end in the text."""
        return self.reading.starts[self.first], self.reading.ends[self.last - 1]


def languages(text: str) -> list[str]:
    """The languages to look for requests in, by script: kana make Han Japanese; without them it may be either."""
    names = ["en"] if _LATIN.search(text) else []
    if _KANA.search(text):
        return [*names, "ja"]
    return [*names, "zh", "ja"] if _HAN.search(text) else names


@lru_cache(maxsize=16)
def requests(topic: str, text: str) -> tuple[Request, ...]:
    """The requests for a preset topic, one of `PRESETS`, in the order of the text for each language."""
    return tuple(
        Request(language(name), read(name, text), *span)
        for name in languages(text)
        for span in _scan(name, topic, text)
    )


def find_topic(topic: str, prompt: str) -> str | None:
    """The words of the prompt that request a preset topic, or None. `topic` is one of `PRESETS`."""
    found = requests(topic, prompt)
    return " ".join(prompt[slice(*found[0].span)].split()) if found else None


def _scan(name: str, topic: str, text: str) -> list[tuple[int, int]]:
    """First and last symbol of each request in one language."""
    tongue, symbols = language(name), read(name, text).symbols
    for near, plain in tongue.contexts:
        if near.search(symbols):
            symbols = plain.sub(tongue.mask, symbols)
    patterns = tongue.topics[topic]
    symbols = patterns.pseudo.sub(lambda match: tongue.mask * len(match.group()), symbols)
    spans = [match.span() for match in patterns.requests.finditer(symbols)]
    if not any(_outside(match.span(), spans) for match in patterns.specific.finditer(symbols)):
        return spans
    return [span for span in spans if not patterns.general.match(symbols, *span)]


def _outside(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    return all(span[1] <= first or last <= span[0] for first, last in spans)
