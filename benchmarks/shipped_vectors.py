"""Find the vectors that come with the pack, and scale them so that strength 1 is as far as they go without harm.

`make vectors` writes vectors/emoji_*.safetensors and benchmarks/results/shipped_vectors.json. Each concept is found twice,
as one value a channel and as a map, and what does better ships. Every second profession is used, for finding, scaling and
choosing; the others are left to the benchmarks.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

from ..demo.captions import MOSTLY_MEN, MOSTLY_WOMEN, SKIN_TONES
from ..hspace.concept import Direction
from ..hspace.strength_range import BREAKS, SATURATES
from ..hspace.vector_file import save_direction
from .common import FOUND_ON, NO_WEAPON, WOMAN, Bench, Task, attribute_task, percent, store

VECTORS = Path(__file__).parent.parent / "vectors"
STRENGTHS = (0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
HARM = 0.03
"""Share of images that may lose their profession to a vector at strength 1, against what any lower strength keeps."""
ENOUGH = 0.01
"""Share of images with the concept that a strength may lack, of those of the best one, and be preferred for being lower."""
BOTH_HALVES = [*FOUND_ON, *list(MOSTLY_WOMEN)[::2]]
_TASKS = (
    WOMAN,
    attribute_task("man", "gender", 0, list(MOSTLY_WOMEN)[::2]),
    *(attribute_task(f"{tone} skin", "skin_tone", index, BOTH_HALVES) for index, tone in enumerate(SKIN_TONES)),
    NO_WEAPON,
)
TASKS = {task.name: task for task in _TASKS}
"""What ships, by name."""
FORMS = {"spatial mean": True, "map": False}
"""Setting `spatial_mean` by what is said of it; of two that do alike, the first ships."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96, help="images a strength while scaling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="name of a vector, e.g. 'woman'")
    options = parser.parse_args()
    bench = Bench()
    for task in TASKS.values():
        if options.only and task.name not in options.only:
            continue
        rows, found = [], {}
        for form, spatial_mean in FORMS.items():
            discovery, seconds = bench.discover(task, seed=options.seed, measure_range=True, spatial_mean=spatial_mean)
            scale, by_strength = calibrate(bench, task, discovery.direction, options.images)
            at = next(row for row in by_strength if row["strength"] == scale)
            found[form] = discovery.direction, scale, at["concept"] * at["profession"]
            rows.append({"concept": task.name, "form": form, "evaluations": discovery.evaluations, "seconds": round(seconds, 1),
                         "scale": scale, "ships": False, "rows": by_strength})  # fmt: skip
            print(f"{task.name}, {form}: {discovery.evaluations} evaluations, {seconds:.0f} s; {percent(at['concept'])} with "
                  f"{percent(at['profession'])} of the professions at {scale:g}", flush=True)  # fmt: skip
        best = max(found, key=lambda form: found[form][2])
        save(task, *found[best][:2])
        store("shipped_vectors", [{**row, "ships": row["form"] == best} for row in rows], place)


def place(result: dict) -> tuple:
    """Where a result stands among the others."""
    return list(TASKS).index(result["concept"]), list(FORMS).index(result["form"])


def calibrate(
    bench: Bench, task: Task, direction: Direction, images: int, strengths: tuple[float, ...] = STRENGTHS
) -> tuple[float, list[dict]]:
    """The lowest strength with about as much of the concept as any that does no harm, and the figures of all, unsteered
    first.

    Measured on the professions that the vector was found on, so that the others stay unseen.
    """
    on = [name for name in (*MOSTLY_MEN, *MOSTLY_WOMEN) if name in task.found_on]
    task = dataclasses.replace(task, steered_on=on)
    rows = [{"strength": 0.0, **bench.judge_prompts(task, images)}]
    for strength in strengths:
        rows.append({"strength": strength, **bench.judge_prompts(task, images, direction, strength)})
        if rows[-1]["profession"] < rows[0]["profession"] - 0.2:
            break
    return right_strength(rows), rows


def right_strength(rows: list[dict]) -> float:
    """What strength 1 of a shipped vector is, from the rows of all strengths, unsteered first."""
    kept = itertools.accumulate((row["profession"] for row in rows), max)
    # What does harm at one strength is not trusted at a higher one, however it came out there. Steering may also help.
    pairs = itertools.takewhile(lambda pair: pair[0]["profession"] >= pair[1] - HARM, zip(rows, kept, strict=True))
    harmless = [row for row, _ in pairs][1:] or rows[1:2]
    most = max(row["concept"] for row in harmless)
    return next(row["strength"] for row in harmless if row["concept"] >= most - ENOUGH)


def vector_path(name: str) -> Path:
    """Where the shipped vector of that name is, e.g. "dark skin"."""
    return VECTORS / f"emoji_{name.replace(' ', '_')}.safetensors"


def save(task: Task, direction: Direction, scale: float) -> Path:
    """Write the scaled vector with its prompts."""
    metadata = {
        **direction.metadata,
        "concept_prompt": " | ".join(task.concept),
        "base_prompt": " | ".join(task.base),
        **({"avoid_prompt": " | ".join(task.avoid)} if task.avoid else {}),
        **{
            key: f"{float(direction.metadata[key]) / scale:.3g}"
            for key in (SATURATES, BREAKS)
            if key in direction.metadata
        },
        "scale": f"{scale * float(direction.metadata['scale']):.4g}",
    }
    scaled = Direction(direction.tensor * scale, task.name, direction.family, metadata)
    path = vector_path(task.name)
    path.unlink(missing_ok=True)
    save_direction(scaled, path.with_suffix(""))
    return path


if __name__ == "__main__":
    main()
