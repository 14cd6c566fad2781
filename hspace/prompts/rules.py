"""Rules that switch concepts on where a prompt requests them: responsible text-enhancing (paper, section 3.3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import regex

from ..concepts import NOTHING, Concept, Sum, quoted
from .language import language, plain_marks
from .removal import remove
from .topics import PRESETS, Request, find_topic, languages, requests

CUSTOM = "custom"
TOPICS = (*PRESETS, CUSTOM)
SECONDS = 0.5
"""How long all expressions of a rule may compute for one prompt."""
MAX_LINE = 1000


@dataclass(frozen=True)
class Phrase:
    """A line of a rule: its number, counted from 1, its text, and the expression that finds it."""

    number: int
    text: str
    expression: regex.Pattern


@dataclass(frozen=True)
class PromptRule:
    """A concept and the wording that requests it. Make one with `make_rule`.

    Attributes:
        concept: what the rule switches on; any expression.
        topic: one of `TOPICS`; a preset brings its own wording.
        phrases: wording of the user's own, in addition to the preset's.
    """

    concept: Concept
    topic: str
    phrases: tuple[Phrase, ...]

    def find(self, prompt: str) -> str | None:
        """The words of the prompt that request the concept, or None. Raises ValueError where a line takes too long."""
        if self.topic != CUSTOM and (words := find_topic(self.topic, prompt)):
            return words
        span = next(self._phrases_in(prompt), None)
        return span and " ".join(prompt[slice(*span)].split())

    def requests(self, prompt: str) -> list[Request]:
        """Every request for the concept in the prompt. Raises ValueError where a line takes too long."""
        found = [] if self.topic == CUSTOM else list(requests(self.topic, prompt))
        spans = list(self._phrases_in(prompt))
        if not spans:
            return found
        tongue = language((languages(prompt) or ["en"])[0])
        reading = tongue.read(prompt, phrases=False)
        for start, end in spans:
            first, last = bisect_right(reading.ends, start), bisect_right(reading.starts, end - 1)
            if first < last:
                found.append(Request(tongue, reading, first, last))
        return found

    def _phrases_in(self, prompt: str) -> Iterator[tuple[int, int]]:
        """Start and end of what the lines of the rule match; not of nothing, which `/a*/` matches everywhere."""
        if not self.phrases:
            return
        text, place = _with_single_spaces(prompt)
        end = monotonic() + SECONDS
        for phrase in self.phrases:
            try:
                for match in phrase.expression.finditer(text, timeout=max(end - monotonic(), 0.01)):
                    if match.group():
                        yield place(match.start()), place(match.end() - 1) + 1
            except TimeoutError:
                raise ValueError(
                    f"phrases: line {phrase.number}, {quoted(phrase.text)}, takes longer than {SECONDS:g} s for this "
                    "prompt. Repetitions inside repetitions do that, as in (a+)+: write it without, or as plain words."
                ) from None


def make_rule(concept: Concept, topic: str, phrases: str = "") -> PromptRule:
    """A rule from the texts of the node's boxes.

    Args:
        concept: what to switch on.
        topic: one of `TOPICS`.
        phrases: one a line; whole words, upper and lower case alike. A line between slashes, `/like th(is|at)/`, is a
            regular expression.

    Raises:
        ValueError: an unknown topic, a custom rule without phrases, or a line that is too long or no regular
            expression; it names the line.
    """
    if topic not in TOPICS:
        raise ValueError(f"topic: '{topic}' is not one of {', '.join(TOPICS)}.")
    lines = [(number, line.strip()) for number, line in enumerate(phrases.splitlines(), 1) if line.strip()]
    if topic == CUSTOM and not lines:
        raise ValueError("phrases: a custom rule has none and could never match; write at least one, one a line.")
    return PromptRule(concept, topic, tuple(Phrase(number, line, _compile(number, line)) for number, line in lines))


def concepts_from_prompt(prompt: str, rules: tuple[PromptRule, ...]) -> tuple[Concept, str]:
    """The sum of the concepts that the prompt requests (`NOTHING` if none), and one line a match.

    Raises ValueError where a line of a rule takes too long for the prompt; it names the line.
    """
    matches = [(rule, words) for rule in rules if (words := rule.find(prompt))]
    report = "\n".join(f"{rule.topic}: '{words}' -> {rule.concept.describe()}" for rule, words in matches)
    return (Sum(tuple((1.0, rule.concept) for rule, _ in matches)) if matches else NOTHING), report


def without_requests(prompt: str, rules: tuple[PromptRule, ...]) -> str:
    """The prompt without the requests that the rules match, where they stand by themselves.

    A request between commas, in brackets, on a line, as a sentence, or as a phrase that ends one ("of any gender",
    "without blood") can be removed, with the whole list that it begins; other words stay, since the rest would be no
    sentence, have no subject, or ask for what was refused.

    Raises ValueError where a line of a rule takes too long for the prompt; it names the line.
    """
    return remove(prompt, [request for rule in rules for request in rule.requests(prompt)])


def _with_single_spaces(prompt: str):
    """The prompt with straight quotes and single spaces, and a function from a place in it to one in the prompt."""
    words, here, there, length = [], [], [], 0
    for match in regex.finditer(r"\S+", plain_marks(prompt)):
        words.append(match.group())
        here.append(length)
        there.append(match.start())
        length += len(words[-1]) + 1

    def place(offset: int) -> int:
        number = bisect_right(here, offset) - 1
        return there[number] + min(offset - here[number], len(words[number]))

    return " ".join(words), place


def _compile(number: int, line: str) -> regex.Pattern:
    if len(line) > MAX_LINE:
        raise ValueError(
            f"phrases: line {number}, {quoted(line)}, has {len(line)} characters; a line may have {MAX_LINE}. "
            "Write one phrase a line."
        )
    if len(line) > 2 and line.startswith("/") and line.endswith("/"):
        try:
            return regex.compile(line[1:-1], regex.IGNORECASE)
        except regex.error as error:
            raise ValueError(
                f"phrases: line {number}, {quoted(line)}, is not a regular expression: {error}. Correct it, or drop "
                "the slashes."
            ) from None
    words = r"\s+".join(regex.escape(word) for word in plain_marks(line).split())
    return regex.compile(rf"(?<!\w){words}(?!\w)", regex.IGNORECASE)
