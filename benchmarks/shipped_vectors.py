"""Find the vectors that come with the pack, with the defaults of Discover, and judge them at strength 1.

Writes vectors/emoji_*.safetensors, shipped_vectors.json and .md. Vectors are found on every second profession; the
report is of the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.captions import SKIN_TONES
from hspace import load_concept, save_concept

from .common import (
    NO_WEAPON,
    ROOT,
    SHOWN_AS_WOMEN,
    WOMAN,
    Bench,
    attribute_task,
    markdown_table,
    read_json,
    store,
    with_interval,
    write_report,
)

VECTORS = ROOT / "vectors"
_TASKS = (
    WOMAN,
    attribute_task("man", "gender", 0, test=SHOWN_AS_WOMEN),
    *(attribute_task(f"{tone} skin", "skin_tone", index) for index, tone in enumerate(SKIN_TONES)),
    NO_WEAPON,
)
TASKS = {task.name: task for task in _TASKS}
"""The shipped vectors, by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="name of a vector, e.g. 'woman'; may be repeated")
    parser.add_argument("--judged", type=int, default=128, help="images in each cell of the report")
    parser.add_argument("--report", action="store_true", help="judge the vectors that there are, and find none")


def run(options: argparse.Namespace) -> None:
    """Find the vectors, write them, judge them, and write the results."""
    bench = Bench()
    tasks = [task for task in TASKS.values() if not options.only or task.name in options.only]
    for task in () if options.report else tasks:
        discovery, seconds = bench.discover(task, seed=options.seed, measure_range=True)
        save_concept(discovery.vector, vector_path(task.name))
        result = {
            "concept": task.name,
            "evaluations": discovery.evaluations,
            "seconds": round(seconds, 1),
            "reach": discovery.vector.provenance.reach,
            "scale": discovery.vector.provenance.scale,
        }
        store("shipped_vectors", [result], sort_key)

    for task in tasks:
        judged = {name: judge(bench, task, options.judged) for name, judge in CELLS.items()}
        stored = {result["concept"]: result for result in read_json("shipped_vectors")}
        result = {**stored[task.name], "unseen": judged, "judged": options.judged}
        results = store("shipped_vectors", [result], sort_key)
        print(task.name, {name: cell and cell["concept"] for name, cell in judged.items()}, flush=True)
    write_report("shipped_vectors", report(results))


def sort_key(result: dict) -> tuple:
    """The place of a result among the others."""
    return (list(TASKS).index(result["concept"]),)


CELLS = {
    "unsteered": lambda bench, task, images: bench.judge_prompts(task, images),
    "vector": lambda bench, task, images: bench.judge_prompts(task, images, load_concept(vector_path(task.name)), 1.0),
    "word": lambda bench, task, images: bench.judge_prompts(task, images, say_concept=True) if task.wording else None,
}
"""Columns of the report: what is judged on professions that no vector was found on."""


def report(results: list[dict]) -> str:
    """The Markdown page."""
    rows = []
    for result in results:
        cells = [result["unseen"][name] for name in CELLS]
        shown = [
            with_interval(cell[key], result["judged"]) if cell else "–"
            for cell, keys in zip(
                cells, (("concept",), ("concept", "profession"), ("concept", "profession")), strict=True
            )
            for key in keys
        ]
        rows.append([result["concept"], *shown, f"{result['reach']:.2f}", f"{result['scale']:.2f}"])
    columns = ["concept", "unsteered", "vector", "its professions", "word in the prompt", "its professions"]
    columns += ["reach", "scale"]
    return (
        "# The shipped vectors on professions that they were not found on\n\n"
        "Share of images with the concept, and of those with the profession of the prompt, with 95 % intervals. CFG 4, "
        "strength 1, prompts that name nothing but the profession, the same seeds in every column. *Scale* is what "
        "Discover multiplied the vector by because of its reach and of what its images bear.\n\n"
        + markdown_table(columns, rows)
    )


def vector_path(name: str) -> Path:
    """The file of a shipped vector, e.g. "dark skin"."""
    return VECTORS / f"emoji_{name.replace(' ', '_')}.safetensors"
