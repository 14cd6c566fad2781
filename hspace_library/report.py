"""What a library says of itself: an index for programs, a page in Markdown and one in HTML, and a card a vector.

The HTML page holds its pictures and asks nothing of a network; every text in it is escaped.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from hspace.files.writing import replace_file
from hspace.version import CREATED_WITH

from .discovering import write_json
from .jobs import Job

INDEX_VERSION = 1
PICTURES = {".png": "image/png", ".strips.jpg": "image/jpeg"}
"""Beside a vector: the preview of its discovery, and the strips."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { border-bottom: 1px solid #bbb; padding: .3rem .8rem; text-align: left; }
article { border-top: 1px solid #bbb; padding: 1rem 0; } img { image-rendering: auto; max-width: 100%; }
.failed { color: #b00020; }
"""


def write_reports(out: Path, jobs: Sequence[Job], errors: dict[str, str]) -> None:
    """Write `index.json`, `report.md`, `report.html`, and a card beside each finished vector.

    Args:
        out: folder of the library.
        jobs: all of the specification, finished or not.
        errors: of the jobs that failed, by label.
    """
    entries = [_entry(job, errors) for job in jobs]
    for job, entry in zip(jobs, entries, strict=True):
        if entry["state"] == "finished":
            _write(job.beside(".md"), card(job, entry))
    write_json(out / "index.json", {"version": INDEX_VERSION, "created_with": CREATED_WITH, "concepts": entries})
    _write(out / "report.md", markdown(entries))
    _write(out / "report.html", page(out, entries))


def _entry(job: Job, errors: dict[str, str]) -> dict:
    record = job.record() or {}
    finished = record.get("digest") == job.digest and "file" in record and job.vector_path.is_file()
    entry = {
        "checkpoint": job.checkpoint_name,
        "concept": job.concept,
        "state": "finished" if finished else "failed" if job.label in errors else "missing",
        "digest": job.digest,
    }
    if not finished:
        return {**entry, "error": errors.get(job.label, "")}
    pictures = [job.beside(suffix) for suffix in PICTURES]
    return {
        **entry,
        "error": errors.get(job.label, ""),  # of its pictures
        "file": _relative(job, job.vector_path),
        "sha256": record["file"],
        "pictures": [_relative(job, path) for path in pictures if path.is_file()],
        "seconds": record.get("seconds", 0),
        "resumed_from_step": record.get("resumed", 0),
        "notes": record.get("notes", []),
        "shapes": record.get("shapes", {}),
        "facts": record.get("facts", {}),
    }


def _relative(job: Job, path: Path) -> str:
    return path.relative_to(job.out).as_posix()


FACTS = {
    "base_model": "base model",
    "method": "method",
    "steps": "steps",
    "pairs": "pairs",
    "seed": "seed",
    "evaluations": "U-Net evaluations",
    "reach": "reach before calibration",
    "final_loss": "final loss",
    "strength_saturates": "concept shows from strength",
    "strength_breaks": "images break at strength",
    "concept_prompt": "with the concept",
    "base_prompt": "without it",
    "avoid_prompt": "avoided",
    "keep_prompt": "kept as it is",
    "created_with": "created with",
}


def facts_of(entry: dict) -> list[tuple[str, str]]:
    """What is known of a finished vector, in words."""
    facts = [(words, entry["facts"][key]) for key, words in FACTS.items() if entry["facts"].get(key)]
    shapes = ", ".join("x".join(map(str, shape)) for shape in entry["shapes"].values())
    return [*facts, ("shape", shapes), ("seconds", f"{entry['seconds']:g}"), ("SHA-256", entry["sha256"])]


def card(job: Job, entry: dict) -> str:
    """The page beside a vector's file, in Markdown."""
    lines = [f"# {_markdown(entry['concept'])}", "", f"A concept vector for {_markdown(entry['checkpoint'])}.", ""]
    lines += [f"![{Path(name).name}]({_link(Path(name).name)})\n" for name in entry["pictures"]]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {words} | {_markdown(value)} |" for words, value in facts_of(entry)]
    lines += [
        "",
        "Copy the file to `models/concept_vectors`, load it with Load Concept Vector, and steer with Apply H-Space "
        "Steering: strength 1 to begin with.",
        *(f"\n{_markdown(note)}" for note in entry["notes"]),
    ]
    return "\n".join(lines) + "\n"


def markdown(entries: list[dict]) -> str:
    """The overview in Markdown."""
    rows = [["checkpoint", "concept", "state", "reach", "final loss", "seconds"], ["---"] * 6]
    for entry in entries:
        facts = entry.get("facts", {})
        name = _markdown(entry["concept"])
        rows.append(
            [
                _markdown(entry["checkpoint"]),
                f"[{name}]({_link(entry['file'])})" if "file" in entry else name,
                _state(entry, _markdown),
                facts.get("reach", ""),
                facts.get("final_loss", ""),
                f"{entry['seconds']:g}" if "seconds" in entry else "",
            ]
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"# Library of concepts\n\n{_summary(entries)}\n\n{table}\n"


def page(out: Path, entries: list[dict]) -> str:
    """The overview in HTML, with its pictures."""
    rows, articles = [], []
    for number, entry in enumerate(entries):
        failed = ' class="failed"' if entry["error"] else ""
        rows.append(
            f'<tr><td>{html.escape(entry["checkpoint"])}</td><td><a href="#c{number}">{html.escape(entry["concept"])}'
            f"</a></td><td{failed}>{_state(entry, html.escape)}</td></tr>"
        )
        title = f"{html.escape(entry['concept'])} <small>{html.escape(entry['checkpoint'])}</small>"
        parts = [f'<article id="c{number}"><h2>{title}</h2>']
        if entry["error"]:
            parts.append(f'<p class="failed">{html.escape(entry["error"])}</p>')
        parts += [_picture(out / name, entry["concept"]) for name in entry.get("pictures", ())]
        if "facts" in entry:
            cells = "".join(f"<tr><th>{w}</th><td>{html.escape(str(v))}</td></tr>" for w, v in facts_of(entry))
            parts.append(f"<details><summary>how it was found</summary><table>{cells}</table></details>")
            parts += [f"<p>{html.escape(note)}</p>" for note in entry["notes"]]
        articles.append("".join([*parts, "</article>"]))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>Library of concepts</title><style>{STYLE}</style><h1>Library of concepts</h1>"
        f"<p>{html.escape(_summary(entries))}</p><table><tr><th>checkpoint</th><th>concept</th><th>state</th></tr>"
        f"{''.join(rows)}</table>{''.join(articles)}</html>\n"
    )


def _picture(path: Path, name: str) -> str:
    kind = next(kind for suffix, kind in PICTURES.items() if path.name.endswith(suffix))
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img src="data:{kind};base64,{encoded}" alt="{html.escape(name)}"></p>'


def _state(entry: dict, escape) -> str:
    return f"{entry['state']}: {escape(entry['error'])}" if entry["error"] else entry["state"]


def _summary(entries: list[dict]) -> str:
    counts = {state: sum(entry["state"] == state for entry in entries) for state in ("finished", "failed", "missing")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "finished") + "."


def _markdown(text: str) -> str:
    """A text in one cell of a Markdown table, its marks without effect."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(text.split()))


def _link(target: str) -> str:
    escaped = re.sub(r"([<>\\])", r"\\\1", target)
    return f"<{escaped}>"


def _write(path: Path, text: str) -> None:
    replace_file(path, text.encode("utf-8", "replace"))
