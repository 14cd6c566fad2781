"""The jobs of a library: a concept on a checkpoint each, what determines it, and where it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from hspace.discovery import DiscoverySettings
from hspace.files import safe_name
from hspace.prompts import TextPair
from hspace.version import VERSION

from .spec import Library

UNFINISHED = ".unfinished"
"""Folder in the library for vectors that are being found."""
MOVE = "move it, or choose another --out."


class State(Enum):
    """How far a job is, before a build."""

    FINISHED = "finished"
    STARTED = "goes on"
    CHANGED = "changed, found anew"
    NEW = "new"
    PICTURES = "pictures anew"


@dataclass(frozen=True)
class Job:
    """A concept to find on a checkpoint; of plain values, so that it travels to workers.

    Attributes:
        checkpoint: path of the file, or "demo".
        checkpoint_name: of its folder.
        fingerprint: of its content.
        concept: name of the concept.
        pairs, keep: prompts.
        settings: of the discovery, by name.
        strips: what to draw of the finished vector (`spec.Strips`).
        out: folder of the library.
        save_every: seconds from one save of the unfinished vector to the next.
    """

    checkpoint: str
    checkpoint_name: str
    fingerprint: str
    concept: str
    pairs: tuple[TextPair, ...]
    keep: tuple[str, ...]
    settings: Mapping
    strips: Mapping
    out: str
    save_every: float = 20.0

    @property
    def label(self) -> str:
        """What the console and the reports call it."""
        return f"{self.checkpoint_name}/{self.concept}"

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the vector: checkpoint, prompts, settings, version of the pack."""
        return digest_of(
            {
                "checkpoint": self.fingerprint,
                "pairs": [asdict(pair) for pair in self.pairs],
                "keep": self.keep,
                "settings": dict(self.settings),
                "version": VERSION,
            }
        )

    @property
    def strips_digest(self) -> str:
        """SHA-256 of what determines the pictures beside the vector."""
        return digest_of({"vector": self.digest, "strips": dict(self.strips)})

    @property
    def vector_path(self) -> Path:
        """File of the finished vector; its record, card and pictures have the same name with another suffix."""
        return Path(self.out) / self.checkpoint_name / f"{safe_name(self.concept)}.safetensors"

    @property
    def unfinished_path(self) -> Path:
        """File of the vector while it is being found."""
        return Path(self.out) / UNFINISHED / f"{self.digest}.safetensors"

    def beside(self, suffix: str) -> Path:
        """A file beside the vector's, e.g. ".json" for its record."""
        return self.vector_path.with_name(self.vector_path.name.removesuffix(".safetensors") + suffix)

    def record(self) -> dict | None:
        """What was noted when the vector was finished; None where it was not, or the note is damaged."""
        return read_json(self.beside(".json"))

    def state(self) -> State:
        """How far it is.

        Raises:
            ValueError: a file of its name is there that is not the library's.
        """
        record, path = self.record(), self.vector_path
        if record is None:
            if path.exists():
                raise ValueError(f"{path}: this vector was not written by a build and would be replaced; {MOVE}")
            return State.STARTED if self.unfinished_path.is_file() else State.NEW
        intact = path.is_file() and "file" in record
        if intact and file_digest(path) != record["file"]:
            raise ValueError(f"{path}: it was changed since a build wrote it, and would be replaced; {MOVE}")
        if intact and record.get("digest") == self.digest:
            return State.FINISHED if record.get("strips") == self.strips_digest else State.PICTURES
        if self.unfinished_path.is_file():
            return State.STARTED
        return State.CHANGED if intact else State.NEW

    def evaluations(self) -> int:
        """U-Net evaluations that the discovery is going to take, about."""
        batch, steps = self.settings["batch_size"], self.settings["steps"]
        if self.settings["method"] == "paper":
            return self.settings["sample_count"] * 60 + steps * batch * 2
        return steps * batch * (6 if self.pairs[0].avoid else 5)


def jobs_of(library: Library, fingerprints: Mapping[str, str], out: Path) -> list[Job]:
    """All jobs of a specification, checkpoint by checkpoint.

    Args:
        fingerprints: of the checkpoints' content, by path.
    """
    jobs = []
    for checkpoint in library.checkpoints:
        for concept in library.concepts:
            settings: DiscoverySettings = library.settings_of(concept)
            jobs.append(
                Job(
                    checkpoint.path,
                    checkpoint.folder,
                    fingerprints[checkpoint.path],
                    concept.title,
                    tuple(concept.pairs(checkpoint.shared)),
                    tuple(concept.kept(checkpoint.shared)),
                    asdict(settings),
                    library.strips.model_dump(),
                    str(out),
                    library.workers.save_every,
                )
            )
    return jobs


def digest_of(value: object) -> str:
    """SHA-256 of plain values, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json(path: Path) -> dict | None:
    """The object in a file; None where there is none or it is damaged."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
