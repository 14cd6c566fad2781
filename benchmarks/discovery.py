"""Discovery: quality against cost, by method, over concepts and seeds.

Adds cells to discovery.json for `--minutes` at most, continues where the last run stopped, and writes discovery.md and
.png of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from functools import cache

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from demo.captions import (
    ARMED,
    GENDERS,
    MOSTLY_MEN,
    MOSTLY_WOMEN,
    PROFESSION_INDEX,
    SKIN_TONES,
    STYLES,
    caption,
)
from demo.classifier import classify

from .common import (
    LEARN_PROFESSIONS,
    NO_WEAPON,
    TEST_PROFESSIONS,
    WOMAN,
    Bench,
    Task,
    at_fidelity,
    attribute_task,
    cycled,
    markdown_table,
    mean_psnr,
    mean_row,
    numbers,
    rate,
    read_json,
    recognised,
    result_path,
    seeds,
    store,
    write_report,
)
from .discovery_methods import DEFAULT, METHODS, PAPERS_LOSS, PUBLISHED, SPATIAL_MEAN
from .style_judge import StyleJudge

STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BOUNDS = UNSTEERED, IN_THE_PROMPT = "unsteered", "in the prompt"
"""Without a vector: what there is to do, and what the model makes of the word itself."""
SHOWN_BY_STRENGTH = {DEFAULT: "default", SPATIAL_MEAN: "spatial_mean on", PUBLISHED: "paper's protocol"}
NAMED_IN_PLOT = (
    PUBLISHED,
    PAPERS_LOSS,
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
_BOTH = [*LEARN_PROFESSIONS, *_WOMEN[::2]], [*TEST_PROFESSIONS, *_WOMEN[1::2]]
_PEOPLE = [{"gender": g, "skin_tone": t} for t in range(len(SKIN_TONES)) for g in range(len(GENDERS))]
_LEARN_PEOPLE = [person for person in _PEOPLE if (person["gender"] + person["skin_tone"]) % 2 == 0]
_TEST_PEOPLE = [person for person in _PEOPLE if person not in _LEARN_PEOPLE]
_TWEMOJI = STYLES.index("twemoji")

CONCEPTS = {
    "woman": WOMAN,
    "man": attribute_task("man", "gender", 0, _WOMEN[::2], _WOMEN[1::2]),
    "no weapon": NO_WEAPON,
    "with a weapon": Task(
        "with a weapon",
        [caption(p, weapon=True) for p in _HARMLESS[::2]],
        [caption(p) for p in _HARMLESS[::2]],
        "weapon",
        1,
        _HARMLESS[1::2],
        {"weapon": True},
    ),
    **{
        f"{tone} skin": attribute_task(f"{tone} skin", "skin_tone", number, *_BOTH)
        for number, tone in enumerate(SKIN_TONES)
    },
    "firefighter": Task(
        "firefighter",
        [caption("firefighter", **person) for person in _LEARN_PEOPLE],
        [caption(**person) for person in _LEARN_PEOPLE],
        "profession",
        PROFESSION_INDEX["firefighter"],
        [],
        {"profession": "firefighter"},
    ),
    "twemoji style": attribute_task("twemoji style", "style", _TWEMOJI, *_BOTH),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--images", type=int, default=64, help="images a strength")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--method", action="append", help="may be repeated; default: all but the paper's full protocol, the longest"
    )
    parser.add_argument("--concept", action="append", help="may be repeated; default: all")


def run(options: argparse.Namespace) -> None:
    """Measure what there is time for, and write the results."""
    began, bench = time.monotonic(), Bench()
    cells = read_json("discovery")
    done = {(cell["method"], cell["concept"], cell["seed"]) for cell in cells}
    methods = options.method or list(METHODS)[1:]
    for seed, concept, method in itertools.product(range(options.seeds), options.concept or CONCEPTS, methods):
        if (method, concept, seed) in done:
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        cells = store("discovery", [discover_and_measure(bench, method, concept, seed, options.images)], sort_key)
    for concept, bound in itertools.product({cell["concept"] for cell in cells}, BOUNDS):
        if (bound, concept, 0) not in done and (CONCEPTS[concept].wording or bound == UNSTEERED):
            rows = [measure(bench, CONCEPTS[concept], None, 0.0, options.images, say_concept=bound == IN_THE_PROMPT)]
            cells = store("discovery", [{"method": bound, "concept": concept, "seed": 0, "rows": rows}], sort_key)
    write_report("discovery", report(cells, options.images))
    plot(cells)


def sort_key(cell: dict) -> tuple:
    """The place of a cell among the others."""
    return [*BOUNDS, *METHODS].index(cell["method"]), list(CONCEPTS).index(cell["concept"]), cell["seed"]


def discover_and_measure(bench: Bench, method: str, concept: str, seed: int, images: int) -> dict:
    """One cell: a discovery, and its rows at each strength."""
    task = CONCEPTS[concept]
    steering, evaluations, seconds = METHODS[method](bench, task, seed)
    rows = [measure(bench, task, steering, strength, images) for strength in STRENGTHS]
    best = at_fidelity(rows)
    concepts, professions = ([round(100 * row[key]) for row in rows] for key in ("concept", "profession"))
    print(
        f"{concept:>16} | {method:<32} | seed {seed} | {evaluations:6} evaluations, {seconds:4.0f} s | at strength "
        f"{best['strength']:g} {100 * best['concept']:.0f} % | {concepts} {professions}",
        flush=True,
    )
    return {
        "method": method,
        "concept": concept,
        "seed": seed,
        "evaluations": evaluations,
        "seconds": round(seconds, 1),
        "rows": rows,
    }


@cache
def _references(bench: Bench, concept: str, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unsteered images of a concept's prompts, and the pixels that the word in the prompt changes least."""
    task = CONCEPTS[concept]
    contrast = task.wording or {task.attribute: 1 - task.value}
    plain, changed = (
        bench.sample([caption(**{**person, **words}) for person in _people(task, images)], seeds(images))
        for words in ({}, contrast)
    )
    return plain, _least_changed(plain, changed)


def _people(task: Task, images: int) -> list[dict]:
    """Arguments of `caption` for the prompts that a task is tested on."""
    return cycled([{"profession": p} for p in task.test_professions] or _TEST_PEOPLE, images)


_style_judge = cache(StyleJudge)


def measure(
    bench: Bench, task: Task, steering, strength: float, images: int, say_concept: bool = False
) -> dict[str, float]:
    """Concept rate, fidelity, and PSNR to the unsteered images of the same seeds in dB, over prompts not learnt on.

    PSNR of whole images, and outside of what the concept changes: over the half of each image that differs least
    between the prompt and the one that says the concept (or, for the lack of something, that asks for it). Fidelity is
    the share with the profession still recognised; if the concept is a profession, the share that still has the gender
    of its prompt.

    Args:
        steering: a concept, a `Steer`, or None.
        say_concept: the prompts say the concept.
    """
    people, (unsteered, outside) = _people(task, images), _references(bench, task.name, images)
    prompts = [caption(**{**person, **(task.wording if say_concept else {})}) for person in people]
    sampled = bench.sample(prompts, seeds(images), steering, strength)
    attributes = classify(bench.judge, sampled)
    classes = _style_judge(bench)(sampled) if task.attribute == "style" else getattr(attributes, task.attribute)
    if task.test_professions:
        faithful = recognised(attributes, [person["profession"] for person in people])
    else:
        faithful = attributes.gender == torch.tensor([person["gender"] for person in people])
    return {
        "strength": strength,
        "concept": rate(classes == task.value),
        "profession": rate(faithful),
        "psnr": mean_psnr(sampled, unsteered),
        "psnr_outside": mean_psnr(sampled, unsteered, outside),
    }


def _least_changed(images: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Bool `[B, H, W]`: the half of each image's pixels around which two IMAGE batches differ least."""
    difference = (images - changed).square().mean(3)[:, None]
    around = F.avg_pool2d(difference, 9, stride=1, padding=4, count_include_pad=False)[:, 0]
    return around <= around.flatten(1).median(1).values[:, None, None]


def cells_of(cells: list[dict], method: str, concept: str) -> list[dict]:
    """The cells of a method and concept, one a seed."""
    return [cell for cell in cells if (cell["method"], cell["concept"]) == (method, concept)]


def summary(cells: list[dict], method: str, concept: str) -> list[float]:
    """Concept rate at 95 % fidelity, a value a seed; NaN if no strength keeps that."""
    return [at_fidelity(cell["rows"])["concept"] for cell in cells_of(cells, method, concept)]


def report(cells: list[dict], images: int) -> str:
    """The Markdown page."""
    concepts = [c for c in CONCEPTS if any(cell["concept"] == c for cell in cells)]
    rows = []
    for method in METHODS:
        own = [cell for cell in cells if cell["method"] == method]
        if own:
            evaluations, seconds = (statistics.median(cell[key] for cell in own) for key in ("evaluations", "seconds"))
            values = [_cell(summary(cells, method, concept)) for concept in concepts]
            rows.append([method, f"{evaluations:,.0f}", f"{seconds:.0f}", *values])
    return (
        "# Discovery: quality against cost on the demo model\n\n"
        f"Share of {images} images with the concept, in percent, at the strength (of {numbers(STRENGTHS)}) with most "
        "of it among those at which 95 % of the professions are still recognised; professions that no vector was found "
        'on, 20 steps, CFG 4. *None* if there is no such strength (for "firefighter" it is the gender of the prompt '
        "that has to be kept). Mean over seeds, with the lowest and highest if there are several. Evaluations of the "
        "U-Net count a sample each, a backward pass through the decoder as one, images included. The line above is "
        "about the last run, which added to those before it; discovery.json has the commit of each cell.\n\n"
        + markdown_table(["method", "evaluations", "seconds", *concepts], rows)
        + by_strength(cells, concepts)
        + outside(cells, concepts)
    )


def by_strength(cells: list[dict], concepts: list[str]) -> str:
    """Results of the methods of `SHOWN_BY_STRENGTH` for each concept at each strength, mean over seeds."""
    rows = []
    for concept, (method, form) in itertools.product(concepts, SHOWN_BY_STRENGTH.items()):
        own = [cell["rows"] for cell in cells_of(cells, method, concept)]
        if own:
            means = [_figures(mean_row(at_strength, SHOWN)) for at_strength in zip(*own, strict=True)]
            bounds = [cells_of(cells, bound, concept) for bound in BOUNDS]
            without = [_figures(bound[0]["rows"][0]) if bound else "–" for bound in bounds]
            rows.append([concept, form, str(len(own)), *without, *means])
    return (
        "\n## By strength\n\n"
        "Concept / profession recognised, in percent / PSNR to the unsteered image of the same seed in dB, over the "
        "whole image, what the concept changes included; mean over seeds.\n\n"
        + markdown_table(["concept", "method", "seeds", *BOUNDS, *(f"strength {s:g}" for s in STRENGTHS)], rows)
    )


def outside(cells: list[dict], concepts: list[str]) -> str:
    """Fidelity of the rest of the image at the strength that the first table shows, if it was measured."""
    rows = []
    for concept, method in itertools.product(concepts, METHODS):
        best = [at_fidelity(cell["rows"]) for cell in cells_of(cells, method, concept)]
        measured = [row for row in best if "psnr_outside" in row]
        if measured:
            means = mean_row(measured)
            rows.append(
                [
                    concept,
                    method,
                    str(len(measured)),
                    f"{means['strength']:g}",
                    f"{100 * means['concept']:.0f} %",
                    f"{means['psnr_outside']:.1f} dB",
                    f"{means['psnr']:.1f} dB",
                ]
            )
    return (
        "\n## Outside of what the concept changes\n\n"
        "At the strength of the first table: PSNR to the unsteered image of the same seed over the half of its pixels "
        "that change least when the prompt itself says the concept (for the lack of something: asks for it), beside "
        "that of whole images.\n\n"
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
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    points = {}
    for method in METHODS:
        own = cells_of(cells, method, "woman")
        if own:
            evaluations = statistics.median(cell["evaluations"] for cell in own)
            points[method] = evaluations, 100 * statistics.mean(summary(cells, method, "woman"))
    others = [point for method, point in points.items() if method not in NAMED_IN_PLOT]
    if others:
        axes.plot(*zip(*others, strict=True), ".", color="grey", zorder=0, label="other changes to the default")
    for number, method in enumerate(method for method in NAMED_IN_PLOT if method in points):
        axes.plot(*points[method], "os^vDPX*"[number % 8], label=method)
    axes.set(
        xscale="log",
        xlabel="U-Net evaluations",
        ylabel="% women at 95 % fidelity",
        ylim=(0, 102),
        title="Women, from prompts that name no gender",
    )
    axes.set_xticks([2000, 5000, 10_000, 20_000, 50_000, 100_000], minor=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    if points:
        axes.legend(fontsize=7, loc="lower left")
    figure.savefig(result_path("discovery.png"))
