"""Find the vectors that come with the pack, and scale them so that strength 1 is as far as they go without harm.

Writes vectors/emoji_*.safetensors and shipped_vectors.json. Each concept is found twice, as one value a channel and as
a map, and what does better ships. Every second profession is used, for finding, scaling and choosing; the others are
left to the other benchmarks.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from demo.captions import MOSTLY_MEN, MOSTLY_WOMEN, SKIN_TONES
from hspace import Vector, save_concept

from .common import LEARN_PROFESSIONS, NO_WEAPON, ROOT, WOMAN, Bench, Task, attribute_task, percent, store

VECTORS = ROOT / "vectors"
STRENGTHS = (0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
HARM = 0.03
"""Share of images that may lose their profession to a vector at strength 1, against what any lower strength keeps."""
ENOUGH = 0.01
"""Share of images with the concept that a strength may lack, of those of the best one, and be preferred for being
lower."""
BOTH_HALVES = [*LEARN_PROFESSIONS, *list(MOSTLY_WOMEN)[::2]]
_TASKS = (
    WOMAN,
    attribute_task("man", "gender", 0, list(MOSTLY_WOMEN)[::2]),
    *(attribute_task(f"{tone} skin", "skin_tone", index, BOTH_HALVES) for index, tone in enumerate(SKIN_TONES)),
    NO_WEAPON,
)
TASKS = {task.name: task for task in _TASKS}
"""The shipped vectors, by name."""
FORMS = {"spatial mean": True, "map": False}
"""Setting `spatial_mean` by what is said of it; of two that do alike, the first ships."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=96, help="images a strength while scaling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="name of a vector, e.g. 'woman'; may be repeated")


def run(options: argparse.Namespace) -> None:
    """Find, scale and choose, and write the vectors and the results."""
    bench = Bench()
    for task in TASKS.values():
        if options.only and task.name not in options.only:
            continue
        results, vectors, scores = [], {}, {}
        for form, spatial_mean in FORMS.items():
            settings = {"seed": options.seed, "measure_range": True, "spatial_mean": spatial_mean}
            discovery, seconds = bench.discover(task, **settings)
            scale, rows = calibrate(bench, task, discovery.vector, options.images)
            at_scale = next(row for row in rows if row["strength"] == scale)
            vectors[form] = scaled(discovery.vector, scale)
            scores[form] = at_scale["concept"] * at_scale["profession"]
            results.append(
                {
                    "concept": task.name,
                    "form": form,
                    "evaluations": discovery.evaluations,
                    "seconds": round(seconds, 1),
                    "scale": scale,
                    "ships": False,
                    "rows": rows,
                }
            )
            print(
                f"{task.name}, {form}: {discovery.evaluations} evaluations, {seconds:.0f} s; "
                f"{percent(at_scale['concept'])} with {percent(at_scale['profession'])} of the professions at "
                f"{scale:g}",
                flush=True,
            )
        best = max(scores, key=scores.get)
        save_concept(vectors[best], vector_path(task.name))
        store("shipped_vectors", [{**result, "ships": result["form"] == best} for result in results], sort_key)


def sort_key(result: dict) -> tuple:
    """The place of a result among the others."""
    return list(TASKS).index(result["concept"]), list(FORMS).index(result["form"])


def calibrate(
    bench: Bench, task: Task, vector: Vector, images: int, strengths: Iterable[float] = STRENGTHS
) -> tuple[float, list[dict]]:
    """The lowest strength with about as much of the concept as any that does no harm.

    Measured on the professions that the vector was found on, so that the others stay unseen.

    Returns:
        The strength, and the figures of all, unsteered first.
    """
    names = [name for name in (*MOSTLY_MEN, *MOSTLY_WOMEN) if name in task.learn_professions]
    task, rows = replace(task, test_professions=names), []
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
    strengths = {
        key: None if value is None else value / scale
        for key, value in (
            ("strength_saturates", known.strength_saturates),
            ("strength_breaks", known.strength_breaks),
        )
    }
    provenance = replace(known, scale=scale * (known.scale or 1.0), **strengths)
    return replace(vector, tensor=vector.tensor * scale, provenance=provenance)
