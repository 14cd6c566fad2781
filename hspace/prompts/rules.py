"""Rules that switch concepts on where a prompt requests them: responsible text-enhancing (paper, section 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..concepts import NOTHING, Concept, Sum
from .topics import PRESETS, find_topic, normalise, request_spans

CUSTOM = "custom"
TOPICS = (*PRESETS, CUSTOM)
_BEFORE = re.compile(
    r"(?:^|[,;:.!?(\u2013\u2014]|\s-\s)\s*((?:(?:and|but|also|please|with|of|either|just|keep it|make it|I "
    r"want|there (?:is|are|must be)) )*)$"
    r"|\b((?:of|with|from) )$",
    re.IGNORECASE,
)
"""Words allowed between a request and the beginning of its clause; a preposition may follow other words."""
_AFTER = re.compile(
    r"(?:,? (?:please|at all|whatsoever|anywhere|whatever|in (?:it|sight|the "
    r"(?:picture|image|frame|scene))|content|scenes?|imagery"
    r"|themes?|welcome|involved|allowed))*(?=\s*(?:[,;:.!?)\u2013\u2014]|\s-\s|$))",
    re.IGNORECASE,
)
_PREPOSITION = re.compile(r"(?:of|with|without|from|sans|minus|devoid of|free of)\b", re.IGNORECASE)
_LEFT_BEHIND = (
    (r"\(\s*(?::\s*[\d.]+\s*)?\)", ""),  # an emphasis on nothing, "(:1.2)"
    (r"\s+([,;:.!?)])", r"\1"),
    (r"\(\s*,?\s*", "("),
    (r"([,;:])(?:\s*[,;:])+", r"\1"),
    (r"[,;:]+\s*([.!?)])", r"\1"),
    (r"([.!?])(?:\s*[.!?,;])+", r"\1"),
    (r"\s{2,}", " "),
)


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
    phrases: tuple[re.Pattern, ...]

    def find(self, prompt: str) -> str | None:
        """The words of the prompt that request the concept, or None."""
        if self.topic != CUSTOM and (words := find_topic(self.topic, prompt)):
            return words
        text = normalise(prompt)
        return next((match.group() for phrase in self.phrases if (match := phrase.search(text))), None)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each request for the concept in normalised text."""
        phrases = [match.span() for phrase in self.phrases for match in phrase.finditer(text)]
        return phrases if self.topic == CUSTOM else request_spans(self.topic, text) + phrases


def make_rule(concept: Concept, topic: str, phrases: str = "") -> PromptRule:
    """A rule from the texts of the node's boxes.

    Args:
        concept: what to switch on.
        topic: one of `TOPICS`.
        phrases: one a line; whole words, upper and lower case alike. A line between slashes, `/like th(is|at)/`, is a
            regular expression.

    Raises:
        ValueError: an unknown topic, a custom rule without phrases, or a broken regular expression.
    """
    if topic not in TOPICS:
        raise ValueError(f"topic: '{topic}' is not one of {', '.join(TOPICS)}.")
    lines = [line.strip() for line in phrases.splitlines() if line.strip()]
    if topic == CUSTOM and not lines:
        raise ValueError("phrases: a custom rule needs at least one phrase, one a line; it can never match otherwise.")
    return PromptRule(concept, topic, tuple(_compile(line) for line in lines))


def concepts_from_prompt(prompt: str, rules: tuple[PromptRule, ...]) -> tuple[Concept, str]:
    """The sum of the concepts that the prompt requests (`NOTHING` if none), and one line a match."""
    matches = [(rule, words) for rule in rules if (words := rule.find(prompt))]
    report = "\n".join(f"{rule.topic}: '{words}' -> {rule.concept.describe()}" for rule, words in matches)
    return (Sum(tuple((1.0, rule.concept) for rule, _ in matches)) if matches else NOTHING), report


def without_requests(prompt: str, rules: tuple[PromptRule, ...]) -> str:
    """The prompt without the requests that the rules match, where they stand by themselves.

    A request between commas, in brackets, as a sentence, or as a phrase that ends one ("of any gender", "without
    blood") can be removed; other words stay, since the rest would be no sentence, or mean the opposite.
    """
    matching = [rule for rule in rules if rule.find(prompt)]
    if not matching:
        return prompt
    text = normalise(prompt)
    spans = sorted(_phrase(text, *span) for rule in matching for span in rule.spans(text))
    rest, place = [], 0
    for start, end in spans:
        rest.append(text[place : max(place, start)])
        place = max(place, end)
    text = "".join(rest) + text[place:]
    for pattern, replacement in _LEFT_BEHIND:
        text = re.sub(pattern, replacement, text)
    return text.strip(" ,;:")


def _phrase(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of the phrase around a match that can be removed; empty where there is none."""
    after, before = _AFTER.match(text, end), _BEFORE.search(text[:start])
    if after is None or not (before or _PREPOSITION.match(text, start)):
        return start, start
    return max(before.start(1), before.start(2)) if before else start, after.end()


def _compile(line: str) -> re.Pattern:
    if len(line) > 2 and line.startswith("/") and line.endswith("/"):
        try:
            return re.compile(line[1:-1], re.IGNORECASE)
        except re.error as error:
            raise ValueError(
                f"phrases: '{line}' is not a regular expression: {error}. Correct it, or drop the slashes."
            ) from None
    words = r"\s+".join(re.escape(word) for word in normalise(line).split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
