"""What a vector is, in a few lines: for the node that loads it and for its card."""

from __future__ import annotations

from ..concepts import Vector

LONGEST_PROMPT = 80


def vector_summary(vector: Vector) -> list[str]:
    """Name, base model, range of strengths and prompts, one a line.

    Texts of a stranger's file are on one line each, and prompts are cut to `LONGEST_PROMPT` characters.
    """
    range_text = vector.provenance.range_text() or "range of strengths: not measured"
    prompts = [f"{label}: {_short(text)}" for label, text in prompts_of(vector)]
    lines = [vector.name, f"base model: {vector.family}", range_text, *prompts]
    return [" ".join(line.split()) for line in lines]


def prompts_of(vector: Vector) -> list[tuple[str, str]]:
    """("with", prompts), ("without", ...), ("avoid", ...) and ("keep", ...), without those that there are none of."""
    found = vector.provenance
    prompts = (
        ("with", found.concept_prompt),
        ("without", found.base_prompt),
        ("avoid", found.avoid_prompt),
        ("keep", found.keep_prompt),
    )
    return [(label, text) for label, text in prompts if text]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_PROMPT else text[: LONGEST_PROMPT - 1] + "…"
