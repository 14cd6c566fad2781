"""What `library.yaml` may say, checked before anything starts."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from hspace.concepts import shortened
from hspace.discovery import DiscoverySettings
from hspace.files import is_name, safe_name
from hspace.prompts import PAIR_PRESETS, PairTemplates, TextPair, expand_kept, expand_templates

DEMO = "demo"
"""The checkpoint that stands for the bundled emoji model."""
MAX_SPEC = 2**20
"""Bytes of a specification."""


class Part(BaseModel):
    """A part of the file; keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _lines(value):
    return "\n".join(map(str, value)) if isinstance(value, list) else value


Lines = Annotated[str, BeforeValidator(_lines)]
"""Text of several lines, or a list of them."""


class Checkpoint(Part):
    """A checkpoint, and what its prompts share.

    Attributes:
        path: a complete checkpoint file, or "demo".
        name: of its folder in the library; the file's name unless given.
        shared: added to every prompt, as `shared` of Concept Prompts.
    """

    path: str
    name: str = ""
    shared: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value):
        return {"path": value} if isinstance(value, str) else value

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return safe_name(self.name or (DEMO if self.is_demo else Path(self.path).stem))

    @property
    def is_demo(self) -> bool:
        """True for the bundled emoji model."""
        return self.path == DEMO


_HINTS = get_type_hints(DiscoverySettings)
Settings = create_model(
    "Settings",
    __base__=Part,
    __doc__="The settings of a discovery by name; what is not given is as `DiscoverySettings` has it.",
    **{item.name: (_HINTS[item.name], item.default) for item in fields(DiscoverySettings) if item.name != "name"},
)


class Concept(Part):
    """A concept: a preset of Concept Prompts, or templates of one's own.

    Attributes:
        settings: in place of those for all concepts.
    """

    name: str = ""
    preset: str = ""
    with_concept: Lines = ""
    without: Lines = ""
    subjects: Lines = ""
    avoid: Lines = ""
    keep: Lines = ""
    settings: dict = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value):
        return {"preset": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self):
        own = any((self.with_concept, self.without, self.subjects, self.avoid, self.keep))
        if self.preset and own:
            raise ValueError(f"'{self.preset}' is a preset and has templates as well; keep one of the two")
        if self.preset and self.preset not in PAIR_PRESETS:
            raise ValueError(f"'{self.preset}' is no preset; there are {', '.join(PAIR_PRESETS)}")
        if not self.preset and not own:
            raise ValueError("empty: name a preset, or write with_concept and without")
        if not is_name(self.title):
            raise ValueError("the name must be one line of 1 to 200 characters")
        self.pairs("")
        self.kept("")
        return self

    @property
    def title(self) -> str:
        """The name of the concept."""
        return self.name or self.preset

    def pairs(self, shared: str) -> list[TextPair]:
        """The pairs of prompts. Raises ValueError as `expand_templates` does."""
        return expand_templates(self._templates, shared)

    def kept(self, shared: str) -> list[str]:
        """The prompts to keep. Raises ValueError as `expand_kept` does."""
        return expand_kept(self._templates, shared)

    @property
    def _templates(self) -> PairTemplates:
        own = PairTemplates(self.with_concept, self.without, self.subjects, self.avoid, self.keep)
        return PAIR_PRESETS[self.preset] if self.preset else own


class Strips(Part):
    """Pictures of each finished vector: a row a prompt, a column a strength, the same seed throughout."""

    prompts: list[str] = Field(default_factory=list, max_length=16)
    strengths: list[float] = Field([0.0, 0.5, 1.0, 1.5], min_length=1, max_length=16)
    steps: int = Field(20, ge=1, le=1000)
    cfg: float = Field(4.0, ge=0, le=100)
    seed: int = Field(0, ge=0, le=2**64 - 1)

    @field_validator("strengths")
    @classmethod
    def _finite(cls, values):
        if not all(map(math.isfinite, values)):
            raise ValueError("every strength must be a finite number")
        return values


class Workers(Part):
    """Where jobs run.

    Attributes:
        count: of workers; 0 for one a share of a GPU, or one a core.
        device: "gpu" and "cpu" insist; "auto" takes GPUs where there are any.
        gpus: GPUs a worker, 0.5 for two on one.
        threads: of a worker on a CPU. A vector's last bits depend on it, so it never follows from the number of
            workers.
        save_every: seconds from one save of an unfinished vector to the next: about what a killed worker costs.
        retries: how often a job is tried again whose worker died, or which failed for want of memory or of a disk.
    """

    count: int = Field(0, ge=0, le=4096)
    device: Literal["auto", "gpu", "cpu"] = "auto"
    gpus: float = Field(1.0, gt=0, le=16)
    threads: int = Field(1, ge=1, le=256)
    save_every: float = Field(20.0, ge=0, le=3600)
    retries: int = Field(2, ge=0, le=10)


class Library(Part):
    """The whole file."""

    checkpoints: list[Checkpoint] = Field(min_length=1)
    concepts: list[Concept] = Field(min_length=1)
    settings: Settings = Settings()
    strips: Strips = Strips()
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _distinct(self):
        _check_distinct("checkpoints", [checkpoint.folder for checkpoint in self.checkpoints])
        _check_distinct("concepts", [safe_name(concept.title) for concept in self.concepts])
        for concept in self.concepts:
            self.settings_of(concept)
            for checkpoint in self.checkpoints:
                concept.pairs(checkpoint.shared)
        return self

    def settings_of(self, concept: Concept) -> DiscoverySettings:
        """The settings of a concept. Raises ValueError where its own are none."""
        try:
            given = Settings.model_validate({**self.settings.model_dump(), **concept.settings}).model_dump()
        except ValidationError as error:
            raise ValueError(f"concept '{concept.title}', settings: {'; '.join(_in_words(error))}") from None
        for side in ("width", "height"):
            if given[side] and (given[side] < 64 or given[side] % 8):
                raise ValueError(f"settings.{side}: {given[side]} must be a multiple of 8, 64 at least, or 0")
        return DiscoverySettings(concept.title, **given)


def read_library(path: Path) -> Library:
    """A specification; paths in it are relative to its folder.

    Raises:
        ValueError: no such file, no YAML, or not what a library says; each fault on a line of its own.
    """
    try:
        if path.stat().st_size > MAX_SPEC:
            raise ValueError(f"{path}: larger than 1 MiB, which no specification of a library is.")
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error.__class__.__name__}); check the path.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{path}{place}: not valid YAML ({shortened(getattr(error, 'problem', 'unreadable'))})."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it should say checkpoints and concepts; docs/library.md shows one.")
    try:
        library = Library.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(f"{path}: {line}" for line in _in_words(error))) from None
    base = path.resolve().parent
    placed = [
        one if one.is_demo else one.model_copy(update={"path": str(base / Path(one.path).expanduser())})
        for one in library.checkpoints
    ]
    return library.model_copy(update={"checkpoints": placed})


def _check_distinct(what: str, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:  # file systems of Windows and macOS take them for one
            raise ValueError(f"two {what} are called '{name}'; give one of them another name")
        seen[name.casefold()] = name


def _in_words(error: ValidationError) -> list[str]:
    """The faults that pydantic found, each with its place."""
    lines = []
    for fault in error.errors():
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            text = "not known; correct the spelling, or remove it"
        lines.append(shortened(f"{place}: {text}" if place else text, 500))
    return lines
