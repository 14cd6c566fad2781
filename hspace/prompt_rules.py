"""Rules that switch concepts on for what a prompt asks for: responsible text-enhancing (paper, section 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .concept import NOTHING, Concept, Sum
from .topics import PRESETS, find_topic, normalise

CUSTOM = "custom"
TOPICS = (*PRESETS, CUSTOM)


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
