"""Topics of Prompt Rule: the wording in a prompt that requests each of them.

Gender, race and age match where the writer leaves them open or asks for variety or an origin ("of any gender", "of
diverse ethnicity", "young and old"). Sexual and violence match where the writer refuses them ("no nudity",
"non-violent", "keep guns out of the picture"); a scene that only mentions them does not match.
"""

from __future__ import annotations

import re
from functools import cache

from .open_topics import ANY_NOUN, OPEN, OPEN_PATTERNS, open_patterns
from .refusals import CHILD_SAFE, WORDS, refusal_patterns

PRESETS = ("gender", "race", "age", "sexual", "violence")


@cache
def _pattern(topic: str) -> re.Pattern:
    """Compiled at first use: these take a tenth of a second each, which ComfyUI's start should not pay for."""
    patterns = open_patterns(topic) if topic in OPEN_PATTERNS else refusal_patterns(topic)
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


def find_topic(topic: str, prompt: str) -> str | None:
    """The words of the prompt that request a preset topic, or None. `topic` is one of `PRESETS`."""
    text = normalise(prompt)
    if topic == "age":  # "suitable for all ages" speaks of the audience
        text = re.sub(CHILD_SAFE, "", text, flags=re.IGNORECASE)
    match = _pattern(topic).search(text)
    return match and match.group().strip(" ,;:(")


def normalise(prompt: str) -> str:
    """The prompt with straight quotes and single spaces."""
    return re.sub(r"\s+", " ", prompt.replace("\u2019", "'").replace("\u2018", "'").replace("\u2011", "-")).strip()


def request_spans(topic: str, text: str) -> list[tuple[int, int]]:
    """Start and end of each request for a preset topic in normalised text, with the whole list that it begins.

    "no guns, knives or blood" refuses three things; without "no guns" it would ask for the other two.
    """
    rest = _rest_of_list(topic)
    return [(match.start(), rest.match(text, match.end()).end()) for match in _pattern(topic).finditer(text)]


@cache
def _rest_of_list(topic: str) -> re.Pattern:
    if topic in WORDS:
        more = rf"(?:(?:no|any|other|a|an|the) )?(?:\w+ )?(?:{WORDS[topic]})(?!\w)"
    else:
        more = rf"(?:(?:{OPEN}) )?(?:{ANY_NOUN})\b"
    return re.compile(rf"(?:(?:,? (?:and|or|nor|&) |, ?|/){more})*", re.IGNORECASE)
