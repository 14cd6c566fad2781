"""Discovery: the default over concepts and seeds, beside its rivals and controls, and one change to it at a time.

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
from matplotlib.figure import Figure

from demo.captions import (
    ARMED,
    GENDERS,
    MOSTLY_MEN,
    PROFESSION_INDEX,
    SKIN_TONES,
    STYLES,
    caption,
)
from demo.classifier import classify

from .common import (
    NO_WEAPON,
    WOMAN,
    Bench,
    Task,
    at_fidelity,
    attribute_task,
    cycled,
    device_name,
    markdown_table,
    mean_row,
    numbers,
    rate,
    read_json,
    recognised,
    result_path,
    seeds,
    store,
    with_interval,
    write_report,
)
from .discovery_methods import CONSTANTS, DEFAULT, LADDER, METHODS, PUBLISHED, RIVALS
from .shipped_vectors import TASKS
from .style_judge import StyleJudge

STRENGTHS = (0.75, 1.0, 1.25)
BOUNDS = UNSTEERED, IN_THE_PROMPT = "unsteered", "in the prompt"
"""Without a vector: what there is to do, and what the model makes of the word itself."""
_HARMLESS = [name for name in MOSTLY_MEN if name not in ARMED]
_PEOPLE = [{"gender": g, "skin_tone": t} for t in range(len(SKIN_TONES)) for g in range(len(GENDERS))]
_LEARN_PEOPLE = [person for person in _PEOPLE if (person["gender"] + person["skin_tone"]) % 2 == 0]
_TEST_PEOPLE = [person for person in _PEOPLE if person not in _LEARN_PEOPLE]
_TWEMOJI = STYLES.index("twemoji")

CONCEPTS = {
    **{name: TASKS[name] for name in ("woman", "man", NO_WEAPON.name)},
    "with a weapon": Task(
        "with a weapon",
        [caption(p, weapon=True) for p in _HARMLESS[::2]],
        [caption(p) for p in _HARMLESS[::2]],
        "weapon",
        1,
        _HARMLESS[1::2],
        {"weapon": True},
    ),
    **{name: task for name, task in TASKS.items() if task.attribute == "skin_tone"},
    "firefighter": Task(
        "firefighter",
        [caption("firefighter", **person) for person in _LEARN_PEOPLE],
        [caption(**person) for person in _LEARN_PEOPLE],
        "profession",
        PROFESSION_INDEX["firefighter"],
        [],
        {"profession": "firefighter"},
    ),
    "twemoji style": attribute_task("twemoji style", "style", _TWEMOJI),
}


PEOPLE = [name for name in CONCEPTS if CONCEPTS[name].attribute in ("gender", "skin_tone")]
MAIN = [*PEOPLE, NO_WEAPON.name]
"""The concepts that the results are about; the others are measured where they are named."""
OURS = (DEFAULT, CONSTANTS)
"""What is shown at every strength."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--images", type=int, default=128, help="images a strength")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated; default: 0, 1 and 2")
    parser.add_argument(
        "--method", action="append", help="may be repeated; default: all but the paper's full protocol, the longest"
    )
    parser.add_argument("--concept", action="append", help=f"may be repeated; default: {', '.join(MAIN)}")


def run(options: argparse.Namespace) -> None:
    """Measure what there is time for, and write the results."""
    began, bench = time.monotonic(), Bench()
    cells = read_json("discovery")
    done = {(cell["method"], cell["concept"], cell["seed"]) for cell in cells}
    methods = options.method or [method for method in METHODS if method != PUBLISHED]
    concepts = options.concept or MAIN
    for concept, bound in itertools.product(concepts, BOUNDS):
        task = CONCEPTS[concept]
        if (bound, concept, 0) not in done and (task.wording or bound == UNSTEERED):
            row = measure(bench, task, None, 0.0, options.images, say_concept=bound == IN_THE_PROMPT)
            cell = {"method": bound, "concept": concept, "seed": 0, "images": options.images, "rows": [row]}
            cells = store("discovery", [cell], sort_key)
    for seed, method, concept in itertools.product(options.seed or range(3), methods, concepts):
        if (method, concept, seed) in done:
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        cells = store("discovery", [discover_and_measure(bench, method, concept, seed, options.images)], sort_key)
    write_report("discovery", report(cells))
    plot(cells)


def sort_key(cell: dict) -> tuple:
    """The place of a cell among the others."""
    return [*BOUNDS, *METHODS].index(cell["method"]), list(CONCEPTS).index(cell["concept"]), cell["seed"]


def discover_and_measure(bench: Bench, method: str, concept: str, seed: int, images: int) -> dict:
    """One cell: a discovery, and its rows at each strength."""
    task = CONCEPTS[concept]
    steering, evaluations, seconds = METHODS[method](bench, task, seed)
    strengths = METHODS[method].strengths or STRENGTHS
    rows = [measure(bench, task, steering, strength, images) for strength in strengths]
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
        "images": images,
        "evaluations": evaluations,
        "seconds": round(seconds, 1),
        "rows": rows,
        "device": device_name(),
    }


_style_judge = cache(StyleJudge)


def measure(
    bench: Bench, task: Task, steering, strength: float, images: int, say_concept: bool = False
) -> dict[str, float]:
    """Concept rate and fidelity over prompts not learnt on.

    Fidelity is the share with the profession still recognised; if the concept is a profession, the share that still has
    the gender of its prompt.

    Args:
        steering: a concept, a `Steer`, or None.
        say_concept: the prompts say the concept.
    """
    people = cycled([{"profession": p} for p in task.test_professions] or _TEST_PEOPLE, images)
    prompts = [caption(**{**person, **(task.wording if say_concept else {})}) for person in people]
    sampled = bench.sample(prompts, seeds(images), steering, strength)
    attributes = classify(bench.judge, sampled)
    classes = _style_judge(bench)(sampled) if task.attribute == "style" else getattr(attributes, task.attribute)
    if task.test_professions:
        faithful = recognised(attributes, [person["profession"] for person in people])
    else:
        faithful = attributes.gender == torch.tensor([person["gender"] for person in people])
    return {"strength": strength, "concept": rate(classes == task.value), "profession": rate(faithful)}


def cells_of(cells: list[dict], method: str, concept: str) -> list[dict]:
    """The cells of a method and concept, one a seed."""
    return [cell for cell in cells if (cell["method"], cell["concept"]) == (method, concept)]


def report(cells: list[dict]) -> str:
    """The Markdown page."""
    concepts = [c for c in CONCEPTS if any(cell["concept"] == c for cell in cells)]
    return (
        "# Discovery on the demo model\n\n"
        "Share of images with the concept, in percent; professions that no vector was found on, prompts that name "
        "nothing else, 20 steps, CFG 4. Evaluations of the U-Net count a sample each, a backward pass through the "
        "decoder as one, images included. The line above is about the last run, which added to those before it; "
        "discovery.json has the commit, the device and the number of images of each cell.\n\n"
        "## By strength\n\n"
        "Concept, with its 95 % interval over all images of all seeds / profession recognised. Calibrated, so strength "
        "1 is what a user gets. *Best* is the strength with most of the concept among those at which 95 % of the "
        "professions are recognised, over all seeds.\n\n"
        + "".join(f"### {method[0].upper()}{method[1:]}\n\n{by_strength(cells, concepts, method)}\n" for method in OURS)
        + "## Rivals and controls\n\n"
        + NOTE
        + by_method(cells, concepts, RIVALS)
        + "\n## One change at a time\n\n"
        + NOTE
        + by_method(cells, concepts, LADDER)
    )


NOTE = (
    "At the strength with most of the concept among those at which 95 % of the professions are recognised, of "
    f"{numbers(STRENGTHS)} (1, 2, 4 and 8 for the mean differences). Mean over seeds, with the lowest and highest if "
    'there are several; *none* if there is no such strength (for "firefighter" it is the gender of the prompt that has '
    "to be kept).\n\n"
)


def by_strength(cells: list[dict], concepts: list[str], method: str) -> str:
    """A method's results for each concept at each strength, over all seeds."""
    rows = []
    for concept in concepts:
        own = cells_of(cells, method, concept)
        if own:
            pooled = [mean_row(at_strength) for at_strength in zip(*(cell["rows"] for cell in own), strict=True)]
            images = sum(cell["images"] for cell in own)
            best = at_fidelity(pooled)
            bounds = [cells_of(cells, bound, concept) for bound in BOUNDS]
            without = [f"{100 * bound[0]['rows'][0]['concept']:.0f}" if bound else "–" for bound in bounds]
            entries = [f"{with_interval(row['concept'], images)} / {100 * row['profession']:.0f}" for row in pooled]
            rows.append([concept, str(len(own)), *without, *entries, f"{best['strength']:g}"])
    return markdown_table(["concept", "seeds", *BOUNDS, *(f"strength {s:g}" for s in STRENGTHS), "best"], rows)


def by_method(cells: list[dict], concepts: list[str], methods: dict) -> str:
    """A row a method, of those that were measured; the bounds first."""
    rows = []
    for method in (*BOUNDS, *methods):
        own = [cell for cell in cells if cell["method"] == method]
        if own:
            cost = ["–", "–"]
            if method not in BOUNDS:
                evaluations, seconds = (
                    statistics.median(cell[key] for cell in own) for key in ("evaluations", "seconds")
                )
                cost = [f"{evaluations:,.0f}", f"{seconds:.0f}"]
            best = [[at_fidelity(cell["rows"]) for cell in cells_of(own, method, concept)] for concept in concepts]
            rows.append([method, *cost, *(_cell(own_best) for own_best in best)])
    return markdown_table(["method", "evaluations", "seconds", *concepts], rows)


def _cell(best: list[dict[str, float]]) -> str:
    if not best:
        return "–"
    values = [row["concept"] for row in best]
    if any(map(math.isnan, values)):
        return "none"
    mean = f"{100 * statistics.mean(values):.0f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.0f} to {100 * max(values):.0f})"


def plot(cells: list[dict]) -> None:
    """Share of women at 95 % fidelity, the mean over seeds, against evaluations, for the default and its rivals."""
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    marks = itertools.cycle("os^vDPX*")
    for method in RIVALS:
        own = cells_of(cells, method, WOMAN.name)
        shown = [at_fidelity(cell["rows"])["concept"] for cell in own]
        evaluations = statistics.median(cell["evaluations"] for cell in own) if own else 0
        if evaluations:
            axes.plot(evaluations, 100 * statistics.mean(shown), next(marks), label=method)
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
    if axes.lines:
        axes.legend(fontsize=7, loc="lower left")
    figure.savefig(result_path("discovery.png"))
