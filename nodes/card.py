"""Concept Card."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import comfy.utils
from comfy_api.latest import io

from ..hspace.concepts import Vector, quoted
from ..hspace.files import find_vector, list_vectors, load_concept
from ..hspace.viewing import concept_card, find_neighbours
from .base import CATEGORY, ConceptVector, SearchableNode
from .editor import validated

SUFFIX = ".safetensors"
LONGEST_PATTERN, MOST_FILES = 200, 500


def _files(pattern: str) -> list[str]:
    """Names of the vectors that a pattern such as "sd15/*" fits, with or without their suffix."""
    names = [(name, name.replace("\\", "/")) for name in list_vectors(SUFFIX)]
    return [name for name, path in names if any(fnmatchcase(text, pattern) for text in (path, path[: -len(SUFFIX)]))]


def _vectors(names: list[str]) -> Iterator[Vector | None]:
    """Each vector as it is read; None for one that cannot be."""
    bar = comfy.utils.ProgressBar(len(names))  # moving it is where a user's cancel takes effect
    for name in names:
        bar.update(1)
        try:
            yield load_concept(find_vector(name, "compare_with", SUFFIX))
        except ValueError:
            yield None


def _check_pattern(pattern: str) -> None:
    """Raise ValueError where a pattern is too long."""
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"compare_with: the pattern has {len(pattern)} characters; use {LONGEST_PATTERN} at most.")


class ConceptCard(SearchableNode):
    """One page that says what a vector does, what it was found with, and what it resembles."""

    SEARCH_ALIASES = ("h-space", "slider", "sheet", "overview", "preview", "compare", "report")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceConceptCard",
            display_name="Concept Card",
            category=CATEGORY,
            description="Lays out one page about a vector: a strip of strengths, the range in which it works, where "
            "its energy is, the prompts it was found with, and how similar it is to your other vectors.",
            inputs=[
                ConceptVector.Input("concept", tooltip="A single vector, from Load, Import or Discover."),
                io.String.Input(
                    "compare_with",
                    default="*",
                    tooltip="Which vectors in models/concept_vectors to compare it with: a pattern such as 'sd15/*'. "
                    "Empty for none.",
                ),
                io.Image.Input(
                    "strip",
                    optional=True,
                    tooltip="What the vector does, at the top of the page: a strip from Label Strip, or a batch.",
                ),
            ],
            outputs=[io.Image.Output(display_name="card", tooltip="The page, 1024 pixels wide.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, compare_with=None):
        return validated(cls, lambda: _check_pattern(compare_with or ""))

    @classmethod
    def fingerprint_inputs(cls, compare_with=None, **others):
        stats = [(name, find_vector(name, "compare_with", SUFFIX).stat()) for name in _files(compare_with or "")]
        return compare_with, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)

    @classmethod
    def execute(cls, concept, compare_with, strip=None) -> io.NodeOutput:
        if not isinstance(concept, Vector):
            raise ValueError(
                f"concept: {quoted(concept.describe())} is a combination; a card is about one vector. Connect the "
                "vector itself, or use Inspect Concept Vector."
            )
        _check_pattern(compare_with)
        names = _files(compare_with.strip())
        if len(names) > MOST_FILES:
            raise ValueError(
                f"compare_with: {len(names)} vectors fit the pattern, and {MOST_FILES} at most are compared. Narrow "
                "it, for instance to one folder: 'sd15/*'."
            )
        return io.NodeOutput(concept_card(concept, find_neighbours(concept, _vectors(names)), strip))


NODES = [ConceptCard]
