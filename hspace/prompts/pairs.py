"""Pairs of prompts from templates: the same prompt with a concept and without it, for each of several subjects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..concepts import quoted
from .trace import MAX_LENGTH

SUBJECT = "{subject}"
PROMPT = "{prompt}"
MAX_PAIRS = 256
PROMPT_TEXT = "hspace_prompt"
"""Key of a CONDITIONING entry under which Concept Prompts notes the words; ComfyUI hands unknown keys on."""
_PLACE = re.compile(r"\{[^{}]*\}|[{}]")


@dataclass(frozen=True)
class PairTemplates:
    """The templates of pairs, a line each; line i of one belongs to line i of the others.

    Attributes:
        with_concept: with the concept, e.g. "a photo of a woman {subject}".
        without: without it, e.g. "a photo of a {subject}".
        subjects: what takes the place of `{subject}`, a line each; "" for templates without it.
        avoid: what the concept must lack; "" for nothing, one line for all, or a line for each line of the others.
        keep: prompts whose images the vector must not change, as many lines as one likes; "" for none.
    """

    with_concept: str
    without: str
    subjects: str = ""
    avoid: str = ""
    keep: str = ""


@dataclass(frozen=True)
class TextPair:
    """One pair of prompts; `avoid` is "" where there is nothing to avoid."""

    concept: str
    base: str
    avoid: str = ""


def expand_templates(templates: PairTemplates, shared: str = "") -> list[TextPair]:
    """The pairs of the templates: the product of their lines with the subjects.

    Args:
        shared: added to every prompt, after a comma, or around it where it says `{prompt}`, e.g.
            "masterpiece, {prompt}".

    Raises:
        ValueError: templates that do not pair up, sides that are equal with nothing to avoid, an unknown `{name}`, or
            more than `MAX_PAIRS` pairs; the message names the input and quotes the line.
    """
    concepts, bases = _lines("with_concept", templates.with_concept), _lines("without", templates.without)
    if len(concepts) != len(bases):
        sides = [(concepts, "with_concept", "without"), (bases, "without", "with_concept")]
        longer, name, other = max(sides, key=lambda side: len(side[0]))
        line = longer[min(len(concepts), len(bases))]
        raise ValueError(f"{name}: line {quoted(line)} has no counterpart in {other}; write as many lines there.")
    avoids = _lines("avoid", templates.avoid) if templates.avoid.strip() else [""]
    if len(avoids) not in (1, len(concepts)):
        raise ValueError(
            f"avoid: {len(avoids)} lines; write one for all templates, or one for each of the {len(concepts)}."
        )
    subjects = _split(templates.subjects)
    _check_subjects(concepts + bases + avoids, subjects)
    _check_places("shared", shared, PROMPT)
    if len(concepts) * max(1, len(subjects)) > MAX_PAIRS:
        raise ValueError(
            f"subjects: {len(subjects)} subjects times {len(concepts)} templates are more than {MAX_PAIRS} pairs; "
            "six to sixteen pairs are enough."
        )
    avoids = avoids * len(concepts) if len(avoids) == 1 else avoids
    pairs = []
    for concept, base, avoid in zip(concepts, bases, avoids, strict=True):
        if concept == base and not avoid:
            raise ValueError(
                f"with_concept and without: {quoted(concept)} says the same on both sides, so there is nothing to "
                "learn. Name the concept in with_concept only, or write what it must lack into avoid."
            )
        for subject in subjects or [""]:
            filled = (text.replace(SUBJECT, subject) for text in (concept, base, avoid))
            pairs.append(TextPair(*(_joined(text, shared) for text in filled)))
    return pairs


def expand_kept(templates: PairTemplates, shared: str = "") -> list[str]:
    """The prompts to keep: each line of `keep`, with each subject where it says `{subject}`.

    Args:
        shared: as for `expand_templates`.

    Raises:
        ValueError: a line that is one of the base prompts, an unknown `{name}`, no subjects where a line asks for one,
            or more than `MAX_PAIRS` prompts.
    """
    subjects, lines = _split(templates.subjects), _split(templates.keep)
    for line in lines:
        _check_places("keep", line, SUBJECT)
    needing = _asking_for_subjects(lines, subjects)
    if len(lines) + len(needing) * (len(subjects) - 1) > MAX_PAIRS:
        raise ValueError(f"keep: more than {MAX_PAIRS} prompts; about as many as there are pairs are enough.")
    filled = [line.replace(SUBJECT, subject) for line in lines for subject in (subjects if SUBJECT in line else [""])]
    prompts = list(dict.fromkeys(_joined(text, shared) for text in filled))
    bases = {pair.base for pair in expand_templates(templates, shared)}
    if asked := next((prompt for prompt in prompts if prompt in bases), None):
        raise ValueError(
            f"keep: {quoted(asked)} is a prompt of without as well, so its images would have to change and to stay as "
            "they are. Write prompts that have nothing to do with the concept."
        )
    return prompts


def noted_texts(conditioning: list) -> str:
    """The words of a CONDITIONING's prompts as Concept Prompts noted them, each once, joined by " | "; "" where any is
    missing.
    """
    texts = [options.get(PROMPT_TEXT) for _, options in conditioning]
    return " | ".join(dict.fromkeys(texts))[:MAX_LENGTH] if all(isinstance(text, str) for text in texts) else ""


def _split(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _lines(name: str, text: str) -> list[str]:
    lines = _split(text)
    if not lines:
        raise ValueError(f"{name}: there is no prompt; write one, e.g. 'a woman {SUBJECT}'.")
    for line in lines:
        _check_places(name, line, SUBJECT)
    return lines


def _check_places(name: str, text: str, known: str) -> None:
    unknown = next((place for place in _PLACE.findall(text) if place != known), None)
    if unknown is not None:
        raise ValueError(
            f"{name}: {quoted(unknown)} in {quoted(text)} is not known; only {known} is. Write it, or plain words."
        )


def _asking_for_subjects(templates: list[str], subjects: list[str]) -> list[str]:
    """The templates that say `{subject}`; ValueError where there is no subject for them."""
    using = [line for line in templates if SUBJECT in line]
    if using and not subjects:
        raise ValueError(f"subjects: empty, but {quoted(using[0])} asks for one; write one a line, e.g. 'doctor'.")
    return using


def _check_subjects(templates: list[str], subjects: list[str]) -> None:
    if not _asking_for_subjects(templates, subjects) and subjects:
        raise ValueError(
            f"subjects: {len(subjects)} lines, but no template says {SUBJECT}; put it where the subject belongs, or "
            "leave subjects empty."
        )


def _joined(text: str, shared: str) -> str:
    shared = shared.strip()
    if not text or not shared:
        return text
    return shared.replace(PROMPT, text) if PROMPT in shared else f"{text}, {shared}"


# In turn those that models show as men and as women: a vector found on one kind only goes wrong on the other.
_PEOPLE = (
    "firefighter\nteacher\nscientist\nhealth worker\npolice officer\ncook\nmechanic\noffice worker\npilot\nsinger\n"
    "construction worker\nartist"
)
_ARMED = "detective\nfarmer\nguard\nmage\nmechanic\npilot"


def _trait(wording: str) -> PairTemplates:
    return PairTemplates(wording, f"a {SUBJECT}", _PEOPLE)


def _unsaid(wording: str, subjects: str, keep: str) -> PairTemplates:
    return PairTemplates(f"a {SUBJECT}", wording, subjects, wording, keep)


PAIR_PRESETS: Mapping[str, PairTemplates] = {
    "woman": _trait(f"a woman {SUBJECT}"),
    "man": _trait(f"a man {SUBJECT}"),
    "young": _trait(f"a young {SUBJECT}"),
    "old": _trait(f"an old {SUBJECT}"),
    **{
        f"{tone} skin": _trait(f"a {SUBJECT}, {tone} skin")
        for tone in ("light", "medium light", "medium", "medium dark", "dark")
    },
    **{f"{race} (race)": _trait(f"a {race} {SUBJECT}") for race in ("white", "black", "Asian", "Indian")},
    "glasses": _trait(f"a {SUBJECT} wearing glasses"),
    "smile": _trait(f"a smiling {SUBJECT}"),
    "anti-sexual": _unsaid(
        f"a naked {SUBJECT}, nude, sexual",
        "person\nwoman\nman\ncouple\nmodel\ndancer",
        "a woman in a winter coat\na man in a suit\na doctor at work\nan old couple in a park\na cat\na landscape",
    ),
    "anti-violence": _unsaid(
        f"a {SUBJECT}, violence, blood, gore",
        "person\ncrowd\nsoldier\nwarrior\nstreet fight\nprotest",
        "a cook in a kitchen\na teacher with children\na family at a picnic\na gardener\na cat\na landscape",
    ),
    "no weapon": _unsaid(
        f"a {SUBJECT}, with a weapon",
        _ARMED,
        "a firefighter\na cook\na construction worker\na factory worker\na person bowing\na person with a bald head",
    ),
    "pencil drawing": PairTemplates(
        f"a pencil drawing of a {SUBJECT}", f"a {SUBJECT}", "woman\nman\ncat\nhouse\nlandscape\ncar"
    ),
}
"""Ready-made templates. Those that take something away *unsay* it: the base asks for it, the concept does not."""
