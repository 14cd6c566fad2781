"""Discovery: quality against cost, by method, over concepts and seeds.

`run_module.py benchmarks.discovery --minutes 60` adds cells to benchmarks/results/discovery.json for at most that long,
goes on where the last run stopped, and writes discovery.md and .png of what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import time
from functools import cache

import torch
import torch.nn.functional as F

from ..demo.captions import (
    ARMED,
    GENDERS,
    MOSTLY_MEN,
    MOSTLY_WOMEN,
    PROFESSION_INDEX,
    SKIN_TONES,
    STYLES,
    caption,
)
from ..demo.classifier import classify
from .common import (
    FOUND_ON,
    NO_WEAPON,
    RESULTS,
    STEERED_ON,
    WOMAN,
    Bench,
    Task,
    at_fidelity,
    attribute_task,
    markdown_table,
    mean_psnr,
    store,
)
from .discovery_methods import DEFAULT, METHODS, PUBLISHED, SPATIAL_MEAN
from .style_judge import StyleJudge

STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BOUNDS = UNSTEERED, IN_THE_PROMPT = "unsteered", "in the prompt"
"""Without a vector: what there is to do, and what the model makes of the word itself."""
SHOWN_BY_STRENGTH = {DEFAULT: "default", SPATIAL_MEAN: "spatial_mean on", PUBLISHED: "paper's protocol"}
NAMED_IN_PLOT = (
    PUBLISHED,
    "paper's loss",
    "+ teacher instead of noise",
    "+ each sample relative",
    "+ on the sampler's path",
    DEFAULT,
    SPATIAL_MEAN,
    "default, 50 steps",
    "default, 300 steps",
    "mean difference",
    "RespoDiff's concept module",
    "Concept Slider (LoRA)",
)
SHOWN = ("concept", "profession", "psnr")
_WOMEN = list(MOSTLY_WOMEN)
_HARMLESS = [name for name in MOSTLY_MEN if name not in ARMED]
_BOTH = [*FOUND_ON, *_WOMEN[::2]], [*STEERED_ON, *_WOMEN[1::2]]
_PEOPLE = [{"gender": g, "skin_tone": t} for t in range(len(SKIN_TONES)) for g in range(len(GENDERS))]
_PEOPLE_FOUND_ON = [person for person in _PEOPLE if (person["gender"] + person["skin_tone"]) % 2 == 0]
_PEOPLE_STEERED_ON = [person for person in _PEOPLE if person not in _PEOPLE_FOUND_ON]


def _task(name: str, attribute: str, value: int, found_on: list[str], steered_on: list[str]) -> Task:
    return dataclasses.replace(attribute_task(name, attribute, value, found_on), steered_on=steered_on)


CONCEPTS = {
    "woman": WOMAN,
    "man": _task("man", "gender", 0, _WOMEN[::2], _WOMEN[1::2]),
    "no weapon": NO_WEAPON,
    "with a weapon": Task(
        "with a weapon",
        [caption(p, weapon=True) for p in _HARMLESS[::2]],
        [caption(p) for p in _HARMLESS[::2]],
        "weapon", 1, _HARMLESS[1::2], {"weapon": True},
    ),
    **{f"{tone} skin": _task(f"{tone} skin", "skin_tone", number, *_BOTH) for number, tone in enumerate(SKIN_TONES)},
    "firefighter": Task(
        "firefighter",
        [caption("firefighter", **person) for person in _PEOPLE_FOUND_ON],
        [caption(**person) for person in _PEOPLE_FOUND_ON],
        "profession", PROFESSION_INDEX["firefighter"], [], {"profession": "firefighter"},
    ),
    "twemoji style": Task(
        "twemoji style",
        [caption(p, style=STYLES.index("twemoji")) for p in _BOTH[0]],
        [caption(p) for p in _BOTH[0]],
        "style", STYLES.index("twemoji"), _BOTH[1], {"style": STYLES.index("twemoji")},
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--images", type=int, default=64, help="images a strength")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--method", action="append", help="default: all but the paper's full protocol, which takes longest"
    )
    parser.add_argument("--concept", action="append", help="default: all")
    options = parser.parse_args()
    began, bench = time.monotonic(), Bench()
    path = RESULTS / "discovery.json"
    cells = json.loads(path.read_text()) if path.exists() else []
    done = {(cell["method"], cell["concept"], cell["seed"]) for cell in cells}
    methods = options.method or list(METHODS)[1:]
    for seed, concept, method in itertools.product(range(options.seeds), options.concept or CONCEPTS, methods):
        if (method, concept, seed) in done:
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        cells = store("discovery", [run(bench, method, concept, seed, options.images)], place)
    for concept, bound in itertools.product({cell["concept"] for cell in cells}, BOUNDS):
        if (bound, concept, 0) not in done and (CONCEPTS[concept].named or bound == UNSTEERED):
            rows = [measure(bench, CONCEPTS[concept], None, 0.0, options.images, named=bound == IN_THE_PROMPT)]
            cells = store("discovery", [{"method": bound, "concept": concept, "seed": 0, "rows": rows}], place)
    (RESULTS / "discovery.md").write_text(report(cells, options.images))
    plot(cells)


def place(cell: dict) -> tuple:
    """Where a cell stands among the others."""
    return [*BOUNDS, *METHODS].index(cell["method"]), list(CONCEPTS).index(cell["concept"]), cell["seed"]


def run(bench: Bench, method: str, concept: str, seed: int, images: int) -> dict:
    """One cell: a discovery, and its rows at each strength."""
    task = CONCEPTS[concept]
    direction, evaluations, seconds = METHODS[method](bench, task, seed)
    rows = [measure(bench, task, direction, strength, images) for strength in STRENGTHS]
    best = at_fidelity(rows)
    print(f"{concept:>16} | {method:<32} | seed {seed} | {evaluations:6} evaluations, {seconds:4.0f} s | at strength "
          f"{best['strength']:g} {100 * best['concept']:.0f} % | {[round(100 * r['concept']) for r in rows]} "
          f"{[round(100 * r['profession']) for r in rows]}", flush=True)  # fmt: skip
    return {"method": method, "concept": concept, "seed": seed, "evaluations": evaluations, "seconds": round(seconds, 1),
            "rows": rows}  # fmt: skip


_references: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
"""By task: unsteered images, and where the word in the prompt changes them least (`_least_changed`)."""
_style_judge = cache(StyleJudge)


def measure(bench: Bench, task: Task, found, strength: float, images: int, named: bool = False) -> dict[str, float]:
    """Concept rate, fidelity, and PSNR to the unsteered images of the same seeds in dB, over prompts not learnt on.

    PSNR of whole images, and outside of what the concept changes: over the half of each image that differs least between
    the prompt and the one that says the concept (or, for the lack of something, that asks for it). Fidelity is the share
    whose profession is still recognised; where the concept is a profession, the share that still has the gender of its
    prompt. `named`: the prompts say the concept.
    """
    people = [{"profession": p} for p in task.steered_on] or _PEOPLE_STEERED_ON
    people = [people[i % len(people)] for i in range(images)]
    seeds = [5000 + i for i in range(images)]
    if task.name not in _references:
        contrast = task.named or {task.attribute: 1 - task.value}
        plain, changed = (
            bench.draw([caption(**{**person, **word}) for person in people], seeds) for word in ({}, contrast)
        )
        _references[task.name] = plain, _least_changed(plain, changed)
    unsteered, outside = _references[task.name]
    prompts = [caption(**{**person, **(task.named if named else {})}) for person in people]
    drawn = bench.draw(prompts, seeds, found, strength)
    seen = classify(bench.judge, drawn)
    concept = _style_judge(bench)(drawn) if task.attribute == "style" else getattr(seen, task.attribute)
    keeps = "profession" if task.steered_on else "gender"
    indices = [PROFESSION_INDEX[person[keeps]] if keeps == "profession" else person[keeps] for person in people]
    kept = getattr(seen, keeps) == torch.tensor(indices)
    return {
        "strength": strength,
        "concept": (concept == task.value).double().mean().item(),
        "profession": kept.double().mean().item(),
        "psnr": mean_psnr(drawn, unsteered),
        "psnr_outside": mean_psnr(drawn, unsteered, outside),
    }


def _least_changed(images: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Bool `[B, H, W]`: the half of each image's pixels around which two IMAGE batches differ least."""
    difference = (images - changed).square().mean(3)[:, None]
    around = F.avg_pool2d(difference, 9, stride=1, padding=4, count_include_pad=False)[:, 0]
    return around <= around.flatten(1).median(1).values[:, None, None]


def summary(cells: list[dict], method: str, concept: str) -> list[float]:
    """Concept rate at 95 % fidelity, a value a seed; NaN where no strength keeps that."""
    return [at_fidelity(c["rows"])["concept"] for c in cells if (c["method"], c["concept"]) == (method, concept)]


def report(cells: list[dict], images: int) -> str:
    """The Markdown page."""
    concepts = [c for c in CONCEPTS if any(cell["concept"] == c for cell in cells)]
    rows = []
    for method in METHODS:
        own = [cell for cell in cells if cell["method"] == method]
        if not own:
            continue
        values = [summary(cells, method, concept) for concept in concepts]
        rows.append([method, f"{statistics.median(c['evaluations'] for c in own):,.0f}",
                     f"{statistics.median(c['seconds'] for c in own):.0f}", *map(_cell, values)])  # fmt: skip
    return (
        "# Discovery: quality against cost on the demo model\n\n"
        f"Share of {images} images with the concept, in percent, at the strength (of {', '.join(f'{s:g}' for s in STRENGTHS)}) "
        "with most of it among those at which 95 % of the professions are still recognised; professions that no vector was "
        'found on, 20 steps, CFG 4. *None* where there is no such strength (for "firefighter" it is the gender of the prompt that '
        "has to be kept). Mean over seeds, with the lowest and highest where there are several. Evaluations of the "
        "U-Net count a sample each, a backward pass through the decoder as one, images included.\n\n"
        + markdown_table(["method", "evaluations", "seconds", *concepts], rows)
        + by_strength(cells, concepts)
        + outside(cells, concepts)
    )


def by_strength(cells: list[dict], concepts: list[str]) -> str:
    """What the default, its spatial mean and the paper's protocol make of each concept at each strength, mean over seeds."""
    rows = []
    bounds = {(cell["method"], cell["concept"]): cell["rows"] for cell in cells if cell["method"] in BOUNDS}
    for concept, (method, form) in itertools.product(concepts, SHOWN_BY_STRENGTH.items()):
        own = [cell["rows"] for cell in cells if (cell["method"], cell["concept"]) == (method, concept)]
        if own:
            means = [{key: statistics.mean(row[key] for row in at) for key in SHOWN} for at in zip(*own, strict=True)]
            without = [bounds.get((bound, concept)) for bound in BOUNDS]
            rows.append([concept, form, str(len(own)), *(_figures(*row) if row else "–" for row in without), *map(_figures, means)])  # fmt: skip
    return (
        "\n## By strength\n\n"
        "Concept / profession recognised, in percent / PSNR to the unsteered image of the same seed in dB, over the whole "
        "image, what the concept changes included; mean over seeds.\n\n"
        + markdown_table(["concept", "method", "seeds", *BOUNDS, *(f"strength {s:g}" for s in STRENGTHS)], rows)
    )


def outside(cells: list[dict], concepts: list[str]) -> str:
    """What becomes of the rest of the image at the strength that the first table shows, where it was measured."""
    rows = []
    for concept, method in itertools.product(concepts, METHODS):
        best = [at_fidelity(c["rows"]) for c in cells if (c["method"], c["concept"]) == (method, concept)]
        measured = [row for row in best if "psnr_outside" in row]
        if measured:
            means = {key: statistics.mean(row[key] for row in measured) for key in measured[0]}
            rows.append([concept, method, str(len(measured)), f"{means['strength']:g}", f"{100 * means['concept']:.0f} %",
                         f"{means['psnr_outside']:.1f} dB", f"{means['psnr']:.1f} dB"])  # fmt: skip
    return (
        "\n## Outside of what the concept changes\n\n"
        "At the strength of the first table: PSNR to the unsteered image of the same seed over the half of its pixels that "
        "change least when the prompt itself says the concept (for the lack of something: asks for it), beside that of whole "
        "images.\n\n"
        + markdown_table(["concept", "method", "seeds", "strength", "concept shown", "PSNR outside", "PSNR"], rows)
    )


def _figures(row: dict[str, float]) -> str:
    return f"{100 * row['concept']:.0f} / {100 * row['profession']:.0f} / {row['psnr']:.1f}"


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    if any(map(math.isnan, values)):
        return "none"
    mean = f"{100 * statistics.mean(values):.0f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.0f} to {100 * max(values):.0f})"


def plot(cells: list[dict]) -> None:
    """Share of women at 95 % fidelity, the mean over seeds, against evaluations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    places = {}
    for method in METHODS:
        own = [cell for cell in cells if (cell["method"], cell["concept"]) == (method, "woman")]
        if own:
            evaluations = statistics.median(cell["evaluations"] for cell in own)
            places[method] = evaluations, 100 * statistics.mean(summary(cells, method, "woman"))
    others = [place for method, place in places.items() if method not in NAMED_IN_PLOT]
    if others:
        axes.plot(*zip(*others, strict=True), ".", color="grey", zorder=0, label="other changes to the default")
    for number, method in enumerate(method for method in NAMED_IN_PLOT if method in places):
        axes.plot(*places[method], "os^vDPX*"[number % 8], label=method)
    axes.set(xscale="log", xlabel="U-Net evaluations", ylabel="% women at 95 % fidelity", ylim=(0, 102),
             title="Women, from prompts that name no gender")  # fmt: skip
    axes.set_xticks([2000, 5000, 10_000, 20_000, 50_000, 100_000], minor=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")
    FigureCanvasAgg(figure).print_png(RESULTS / "discovery.png")


if __name__ == "__main__":
    main()
