"""The labelled prompts of tests/data, what the presets make of them, and figures with Wilson intervals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import sqrt

from helpers import ROOT, random_vector
from hspace.prompts import make_rule, without_requests
from hspace.prompts.topics import PRESETS, find_topic

SETS = ("prompts_seen", "prompts_unseen", "prompts_wide_seen", "prompts_wide_unseen")
OTHER_LANGUAGES = ("prompts_zh_seen", "prompts_zh_unseen", "prompts_ja_seen", "prompts_ja_unseen")
RULES = tuple(make_rule(random_vector(name="calm"), topic) for topic in PRESETS)
REFUSED = {"sexual", "violence"}
_EDGES = {"but", "with", "and", "please", "of", "from", "in", "a", "an", "the", "either", "also", "is", "be", "for"}
"""Words that may go with a request though they stand outside of its mark, or stay though inside."""


@dataclass(frozen=True)
class Labelled:
    """A prompt with its topics, its words outside of marks, and those of each marked request."""

    topics: frozenset[str]
    prompt: str
    outside: list[str]
    marked: list[list[str]]


def labelled(name: str) -> list[Labelled]:
    """The prompts of a file in tests/data."""
    found = []
    for line in (ROOT / "tests" / "data" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        topics, text = line.split("\t")
        text = text.replace("\\n", "\n")
        outside, marked = words(re.sub("«.*?»", " ", text)), [words(part) for part in re.findall("«(.*?)»", text)]
        plain = text.replace("«", "").replace("»", "")
        found.append(Labelled(frozenset(filter(None, topics.split(","))), plain, outside, marked))
    return found


def words(text: str) -> list[str]:
    """Words in lower case; of scripts without spaces, characters."""
    return [word.lower() for word in re.findall(r"[\u3041-\u9fff]|[^\W_]+", text)]


def interval(hits: int, total: int) -> str:
    """A share with its 95 % Wilson interval, in percent."""
    if not total:
        return "none"
    z, share = 1.96, hits / total
    middle, width = share + z * z / (2 * total), z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = (middle - width) / (1 + z * z / total), (middle + width) / (1 + z * z / total)
    return f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f}; {hits} of {total})"


def counts(name: str, topics=PRESETS) -> tuple[int, int, int]:
    """Requests found, found where there is none, and missed."""
    right = wrong = missed = 0
    for item in labelled(name):
        for topic in topics:
            found = find_topic(topic, item.prompt) is not None
            right += found and topic in item.topics
            wrong += found and topic not in item.topics
            missed += not found and topic in item.topics
    return right, wrong, missed


def removals(name: str) -> tuple[int, int, list[tuple[str, str]]]:
    """Requests found that a mark allows to remove, how many went, and prompts that lost or kept the wrong words."""
    found = gone = 0
    harmed = []
    for item in labelled(name):
        left = without_requests(item.prompt, RULES)
        heard = {topic for topic in item.topics if find_topic(topic, item.prompt)}
        if item.marked:
            found += len(heard)
            gone += sum(find_topic(topic, left) is None for topic in heard)
        if left != item.prompt and (_lost(item, left) or (item.topics & REFUSED and _half_removed(item, left))):
            harmed.append((item.prompt, left))
    return found, gone, harmed


def _lost(item: Labelled, left: str) -> list[str]:
    """Words outside of the marks that are not left, in their order."""
    remaining, place, lost = words(left), 0, []
    for word in item.outside:
        if word in remaining[place:]:
            place = remaining.index(word, place) + 1
        elif word not in _EDGES:
            lost.append(word)
    return lost


def _half_removed(item: Labelled, left: str) -> bool:
    """Whether the beginning of a marked refusal is gone and other words of it stay: that asks for what was refused."""
    remaining = set(words(left)) - set(item.outside) - _EDGES
    return any(request[0] not in words(left) and set(request) & remaining for request in item.marked)
