"""Rules that switch concepts on for what a prompt asks for: responsible text-enhancing (paper, section 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .concept import NOTHING, Concept, Sum
from .topics import PRESETS, find_topic, normalise, wish_spans

CUSTOM = "custom"
TOPICS = (*PRESETS, CUSTOM)
_BEFORE = re.compile(
    r"(?:^|[,;:.!?(\u2013\u2014]|\s-\s)\s*((?:(?:and|but|also|please|with|of|either|just|keep it|make it|I want|there (?:is|are|must be)) )*)$"
    r"|\b((?:of|with|from) )$",
    re.IGNORECASE,
)
"""What may stand between a wish and where its clause begins; a preposition may follow other words."""
_AFTER = re.compile(
    r"(?:,? (?:please|at all|whatsoever|anywhere|whatever|in (?:it|sight|the (?:picture|image|frame|scene))|content|scenes?|imagery"
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
    """A concept and the wording that calls for it. Make one with `make_rule`.

    Attributes:
        concept: what the rule switches on; any expression.
        topic: one of `TOPICS`; a preset brings its own wording.
        phrases: wording of the user's own, in addition to the preset's.
    """

    concept: Concept
    topic: str
    phrases: tuple[re.Pattern, ...]

    def find(self, prompt: str) -> str | None:
        """The words of the prompt that call for the concept, or None."""
        if self.topic != CUSTOM and (words := find_topic(self.topic, prompt)):
            return words
        text = normalise(prompt)
        return next((found.group() for phrase in self.phrases if (found := phrase.search(text))), None)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where normalised text calls for the concept."""
        phrases = [found.span() for phrase in self.phrases for found in phrase.finditer(text)]
        return phrases if self.topic == CUSTOM else wish_spans(self.topic, text) + phrases


def make_rule(concept: Concept, topic: str, phrases: str = "") -> PromptRule:
    """A rule from what the node's boxes hold.

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
    """The sum of the concepts that the prompt calls for (`NOTHING` if none), and one line a match."""
    found = [(rule, words) for rule in rules if (words := rule.find(prompt))]
    matched = "\n".join(f"{rule.topic}: '{words}' -> {rule.concept.describe()}" for rule, words in found)
    return (Sum(tuple((1.0, rule.concept) for rule, _ in found)) if found else NOTHING), matched


def without_wishes(prompt: str, rules: tuple[PromptRule, ...]) -> str:
    """The prompt without the wishes that the rules match, where they stand by themselves.

    A wish between commas, in brackets, as a sentence, or as a phrase that ends one ("of any gender", "without blood") can
    be taken out; other words stay, since what is left would be no sentence, or say the opposite.
    """
    matching = [rule for rule in rules if rule.find(prompt)]
    if not matching:
        return prompt
    text = normalise(prompt)
    spans = sorted(_phrase(text, *span) for rule in matching for span in rule.spans(text))
    kept, place = [], 0
    for start, end in spans:
        kept.append(text[place : max(place, start)])
        place = max(place, end)
    text = "".join(kept) + text[place:]
    for pattern, replacement in _LEFT_BEHIND:
        text = re.sub(pattern, replacement, text)
    return text.strip(" ,;:")


def _phrase(text: str, start: int, end: int) -> tuple[int, int]:
    """The phrase around a match that can be taken out; empty where there is none."""
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
