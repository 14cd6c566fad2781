"""Find the vectors that come with the pack, and scale them so that strength 1 is as far as they go without harm.

Writes vectors/emoji_*.safetensors, shipped_vectors.json and .md. Every second profession is used, for finding and
scaling; the report is of the others.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from demo.captions import MOSTLY_MEN, MOSTLY_WOMEN, SKIN_TONES
from hspace import Vector, load_concept, save_concept

from .common import (
    LEARN_PROFESSIONS,
    NO_WEAPON,
    ROOT,
    TEST_PROFESSIONS,
    WOMAN,
    Bench,
    Task,
    attribute_task,
    markdown_table,
    percent,
    read_json,
    store,
    with_interval,
    write_report,
)

VECTORS = ROOT / "vectors"
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)
HARM = 0.03
"""Share of images that may lose their profession to a vector at strength 1, against what any lower strength keeps."""
ENOUGH = 0.01
"""Share of images with the concept that a strength may lack, of those of the best one, and be preferred for being
lower."""
BOTH_HALVES = [*LEARN_PROFESSIONS, *list(MOSTLY_WOMEN)[::2]]
UNSEEN_HALVES = [*TEST_PROFESSIONS, *list(MOSTLY_WOMEN)[1::2]]
_TASKS = (
    WOMAN,
    attribute_task("man", "gender", 0, list(MOSTLY_WOMEN)[::2], list(MOSTLY_WOMEN)[1::2]),
    *(
        attribute_task(f"{tone} skin", "skin_tone", index, BOTH_HALVES, UNSEEN_HALVES)
        for index, tone in enumerate(SKIN_TONES)
    ),
    NO_WEAPON,
)
TASKS = {task.name: task for task in _TASKS}
"""The shipped vectors, by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=96, help="images a strength while scaling")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated, the best is kept; default: 0")
    parser.add_argument("--steps", type=int, action="append", help="may be repeated, the best is kept; default: 125")
    parser.add_argument("--only", action="append", help="name of a vector, e.g. 'woman'; may be repeated")
    parser.add_argument("--judged", type=int, default=128, help="images in each cell of the report")
    parser.add_argument("--report", action="store_true", help="judge the vectors that there are, and find none")


def run(options: argparse.Namespace) -> None:
    """Find and scale the vectors, write them, judge them, and write the results."""
    bench = Bench()
    tasks = [task for task in TASKS.values() if not options.only or task.name in options.only]
    for task in () if options.report else tasks:
        runs = itertools.product(options.steps or [0], options.seed or [0])
        # Told apart by the professions that they were found on; the others are for the report.
        vector, result = max((find(bench, task, steps, seed, options.images) for steps, seed in runs), key=worth)
        save_concept(vector, vector_path(task.name))
        store("shipped_vectors", [result], sort_key)

    for task in tasks:
        judged = {name: judge(bench, task, options.judged) for name, judge in CELLS.items()}
        stored = {result["concept"]: result for result in read_json("shipped_vectors")}
        result = {**stored[task.name], "unseen": judged, "judged": options.judged}
        results = store("shipped_vectors", [result], sort_key)
        print(task.name, {name: cell and cell["concept"] for name, cell in judged.items()}, flush=True)
    write_report("shipped_vectors", report(results))


def find(bench: Bench, task: Task, steps: int, seed: int, images: int) -> tuple[Vector, dict]:
    """One run: the vector, scaled, and what is stored of it."""
    discovery, seconds = bench.discover(task, seed=seed, steps=steps, measure_range=True)
    scale, rows = calibrate(bench, task, discovery.vector, images)
    at_scale = next(row for row in rows if row["strength"] == scale)
    print(
        f"{task.name}: seed {seed}, {discovery.evaluations} evaluations, {seconds:.0f} s; "
        f"{percent(at_scale['concept'])} with {percent(at_scale['profession'])} of the professions at {scale:g}",
        flush=True,
    )
    result = {
        "concept": task.name,
        "seed": seed,
        "evaluations": discovery.evaluations,
        "seconds": round(seconds, 1),
        "reach": discovery.vector.provenance.reach,
        "scale": scale,
        "rows": rows,
    }
    return scaled(discovery.vector, scale), result


def worth(run: tuple[Vector, dict]) -> float:
    """What a run is chosen by: the share of images with the concept at its scale, less twice the professions lost."""
    unsteered, *steered = run[1]["rows"]
    row = next(row for row in steered if row["strength"] == run[1]["scale"])
    return row["concept"] - 2 * max(0.0, unsteered["profession"] - row["profession"])


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
        rows.append([result["concept"], *shown, f"{result['scale']:g}"])
    columns = ["concept", "unsteered", "vector", "its professions", "word in the prompt", "its professions", "scale"]
    return (
        "# The shipped vectors on professions that they were not found on\n\n"
        "Share of images with the concept, and of those with the profession of the prompt, with 95 % intervals. CFG 4, "
        "strength 1, prompts that name nothing but the profession, the same seeds in every column. *Scale* is what a "
        "vector was multiplied by so that 1 is right, measured on the professions that it was found on.\n\n"
        + markdown_table(columns, rows)
    )


def calibrate(
    bench: Bench, task: Task, vector: Vector, images: int, strengths: Iterable[float] = STRENGTHS
) -> tuple[float, list[dict]]:
    """The lowest strength with about as much of the concept as any that does no harm.

    Measured on the professions that the vector was found on, so that the others stay unseen; "no weapon" on prompts
    that ask for one.

    Returns:
        The strength, and the figures of all, unsteered first.
    """
    names = [name for name in (*MOSTLY_MEN, *MOSTLY_WOMEN) if name in task.learn_professions]
    asked = {"weapon": True} if task.avoid else {}
    task, rows = replace(task, test_professions=names, asked=asked), []
    for strength in (0.0, *strengths):
        rows += bench.sweep(task, vector, (strength,), images)
        if rows[-1]["profession"] < rows[0]["profession"] - 0.2:
            break
    return right_strength(rows), rows


def right_strength(rows: list[dict]) -> float:
    """The strength that becomes 1 in a shipped vector, from the rows of all strengths, unsteered first."""
    most_before = itertools.accumulate((row["profession"] for row in rows), max)
    # What does harm at one strength is not trusted at a higher one, however it came out there. Steering may also help.
    pairs = itertools.takewhile(
        lambda pair: pair[0]["profession"] >= pair[1] - HARM, zip(rows, most_before, strict=True)
    )
    harmless = [row for row, _ in pairs][1:] or rows[1:2]
    most = max(row["concept"] for row in harmless)
    return next(row["strength"] for row in harmless if row["concept"] >= most - ENOUGH)


def vector_path(name: str) -> Path:
    """The file of a shipped vector, e.g. "dark skin"."""
    return VECTORS / f"emoji_{name.replace(' ', '_')}.safetensors"


def scaled(vector: Vector, scale: float) -> Vector:
    """A vector of another length, with what was measured of it in terms of the new one."""
    known = vector.provenance
    measured = ("strength_saturates", "strength_saturates_low", "strength_saturates_high", "strength_breaks")
    strengths = {key: None if getattr(known, key) is None else getattr(known, key) / scale for key in measured}
    provenance = replace(known, scale=scale * (known.scale or 1.0), **strengths)
    return replace(vector.scaled(scale), provenance=provenance)
