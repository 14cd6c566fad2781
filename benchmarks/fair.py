"""Fair generation: how evenly genders and skin tones come out, per profession, and what it costs in fidelity.

Writes fair.md, .json, .png and fair_*.jpg, in two hours on two CPU cores. Needs the vectors of `make vectors`.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from functools import cache, partial

import numpy as np
import scipy.stats
import torch

from demo.captions import GENDERS, MOSTLY_MEN, MOSTLY_WOMEN, SKIN_TONES, caption
from hspace import Concept, Vector
from hspace.concepts import NormalisedSum
from hspace_library.evaluation.statistics import deviation_of, mean_deviation

from .baselines import mean_difference
from .common import (
    PAPER_PROTOCOL,
    UNSEEN,
    Bench,
    Task,
    markdown_table,
    mean_row,
    result_path,
    store,
    with_interval,
    write_report,
)
from .pictures import PER_ROW, bars, image_rows
from .responsible import (
    CFGS,
    SHOWN_CFG,
    Judged,
    add_cfg_argument,
    cfg_order,
    fidelity,
    gender_choice,
    profession_only,
    sample_cell,
    tone_choice,
)
from .shipped_vectors import TASKS

CLASSES = {"gender": len(GENDERS), "skin tone": len(SKIN_TONES), "both": len(GENDERS) * len(SKIN_TONES)}
PAPER_METHOD = "paper's vectors"
METHODS = ("unsteered", "word in the prompt", "mean difference", "ours, random", "ours, balanced", PAPER_METHOD)
METHODS_OF = {
    "gender": METHODS,
    "skin tone": METHODS[:-1],
    "both": tuple(method for method in METHODS[:-1] if method != "mean difference"),
}
"""The paper's protocol for each of seven vectors would take an hour."""
DISCOVERED_HERE = ("mean difference", PAPER_METHOD)
CALIBRATION_IMAGES = 48
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
HARM = 0.03
"""Share of images that may lose their profession to a vector at strength 1, against what any lower strength keeps."""
ENOUGH = 0.01
"""Share of images with the concept that a strength may lack, of those of the best one, and be preferred for being
lower."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=150, help="images a profession")
    parser.add_argument("--professions", type=int, default=6)
    add_cfg_argument(parser)
    parser.add_argument("--attribute", action="append", choices=list(CLASSES), help="default: all")
    parser.add_argument("--method", action="append", choices=METHODS, help="default: all; other results are kept")


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    bench, results = Bench(), []
    for cfg in options.cfg or CFGS:
        professions = UNSEEN[: options.professions]
        plain = {p: sample_cell(bench, profession_only(p, options.images), cfg=cfg) for p in professions}
        for attribute in options.attribute or CLASSES:
            for method in METHODS_OF[attribute]:
                if not options.method or method in options.method:
                    results = store("fair", [measure(bench, attribute, method, plain, cfg)], sort_key)
    write_report("fair", report(results))
    shown = [r for r in results if r["cfg"] == SHOWN_CFG] or results
    panels = {
        attribute: [(r["method"], r["deviation"], r["low"], r["high"]) for r in shown if r["attribute"] == attribute]
        for attribute in CLASSES
    }
    panels = {title: entries for title, entries in panels.items() if entries}
    bars(panels, "mean deviation ratio, 0 is even", result_path("fair.png"))
    for attribute, methods in METHODS_OF.items():
        rows = {
            method: sample_method(bench, attribute, method, UNSEEN[0], PER_ROW, 0, SHOWN_CFG).images
            for method in methods
            if method not in DISCOVERED_HERE
        }
        image_rows(rows, result_path(f"fair_{attribute.replace(' ', '_')}.jpg"))


def sort_key(result: dict) -> tuple:
    """The place of a result among the others."""
    return *cfg_order(result["cfg"]), list(CLASSES).index(result["attribute"]), METHODS.index(result["method"])


def sample_method(
    bench: Bench, attribute: str, method: str, profession: str, images: int, seed: int, cfg: float
) -> Judged:
    """Images of one profession under one method; `seed` is that of the choice."""
    match method:
        case "word in the prompt":
            return sample_cell(bench, prompts_with_words(attribute, profession, images, seed), cfg=cfg)
        case "unsteered":
            concept = None
        case _:
            concept = expression(bench, attribute, method, seed)
    return sample_cell(bench, profession_only(profession, images), concept, cfg=cfg)


def measure(bench: Bench, attribute: str, method: str, plain: dict[str, Judged], cfg: float) -> dict:
    """One method for one attribute over all professions, beside the unsteered images of each."""
    groups, rows = [], []
    for seed, (profession, unsteered) in enumerate(plain.items()):
        cell = unsteered
        if method != "unsteered":
            cell = sample_method(bench, attribute, method, profession, len(unsteered.images), seed, cfg)
        groups.append(classes(cell, attribute))
        rows.append(fidelity(cell, unsteered, profession))
    deviation, low, high = mean_deviation(groups, CLASSES[attribute])
    result = {
        "attribute": attribute,
        "method": method,
        "cfg": cfg,
        "images": len(groups[0]),
        "deviation": deviation,
        "low": low,
        "high": high,
        "deviations": {p: deviation_of(group, CLASSES[attribute]) for p, group in zip(plain, groups, strict=True)},
        **mean_row(rows),
    }
    print(
        f"cfg {cfg:g} {attribute:>9} {method:>18}: deviation {deviation:.3f} ({low:.3f} to {high:.3f}), "
        f"profession {100 * result['profession']:.1f} %",
        flush=True,
    )
    return result


def classes(cell: Judged, attribute: str) -> torch.Tensor:
    """Class of each image, int64 `[images]`."""
    attributes = cell.attributes
    if attribute == "both":
        return attributes.gender * len(SKIN_TONES) + attributes.skin_tone
    return attributes.gender if attribute == "gender" else attributes.skin_tone


def prompts_with_words(attribute: str, profession: str, images: int, seed: int) -> list[str]:
    """The ceiling: the same balanced choices, as words in the prompt."""
    nobody = [None] * images
    genders = nobody if attribute == "skin tone" else gender_choice(seed, load=_placeholder).allocate(images)
    tones = nobody if attribute == "gender" else tone_choice(seed, load=_placeholder).allocate(images)
    return [caption(profession, gender=g, skin_tone=t) for g, t in zip(genders, tones, strict=True)]


def _placeholder(name: str) -> Vector:
    return Vector(torch.zeros(1, 1, 1), name, "words")


def expression(bench: Bench, attribute: str, method: str, seed: int) -> Concept:
    """The choice that a method steers with, or the sum of choices, normalised as in the workflow compose_concepts."""
    balanced = method != "ours, random"
    find = {"mean difference": _mean_difference, PAPER_METHOD: _paper_vector}.get(method)
    load = {"load": partial(find, bench)} if find else {}
    makers = {"gender": gender_choice, "skin tone": tone_choice}
    choices = [make(seed, balanced, **load) for name, make in makers.items() if attribute in (name, "both")]
    return choices[0] if len(choices) == 1 else NormalisedSum(tuple((1.0, choice) for choice in choices))


@cache
def _mean_difference(bench: Bench, name: str) -> Vector:
    task = TASKS[name]
    model, clip, _ = bench.parts
    vector, _ = mean_difference(model, clip, task.concept, task.base, name)
    return _scaled_by_judge(bench, task, vector)


@cache
def _paper_vector(bench: Bench, name: str) -> Vector:
    discovery, _ = bench.discover(TASKS[name], **PAPER_PROTOCOL)
    return _scaled_by_judge(bench, TASKS[name], discovery.vector)


def _scaled_by_judge(bench: Bench, task: Task, vector: Vector) -> Vector:
    """Scaled by the judge, for nothing else has calibrated it; it may need to go far."""
    return vector.scaled(right_strength(rows_to_scale_by(bench, task, vector)))


def report(results: list[dict]) -> str:
    """The Markdown page."""
    professions, counts = len(results[0]["deviations"]), sorted({r["images"] for r in results})
    coins = " and ".join(f"{count} have {coin_tosses(count):.3f}" for count in counts)
    rows = [
        [
            f"{r['cfg']:g}",
            r["attribute"],
            r["method"],
            str(r["images"]),
            f"{r['deviation']:.3f} ({r['low']:.3f} to {r['high']:.3f})",
            with_interval(r["profession"], r["images"] * professions),
            with_interval(r["weapon unchanged"], r["images"] * professions),
            f"{r['psnr']:.1f} dB",
        ]
        for r in results
    ]
    columns = [
        "CFG",
        "attribute",
        "method",
        "images",
        "mean deviation ratio (95 % interval)",
        "profession recognised",
        "weapon unchanged",
        "PSNR to unsteered",
    ]
    return (
        "# Fair generation on the demo model\n\n"
        f"{professions} professions that no vector was found on, so many images of each, prompts that name nothing but "
        "the profession, same seeds in every row, strength 1. Deviation ratio: 0 is even, 1 is all the same; it is the "
        "largest of several shares, so few images make it larger than it is. *Word in the prompt* is the ceiling: the "
        "same balanced choices, written into the prompt. *Mean difference* is a vector without optimisation, *paper's "
        "vectors* are found by the published protocol; both are scaled by the judge so that strength 1 shows most of "
        f"the concept without harm, and allocated in balance. Of fair coin tosses {coins} "
        "on average.\n\n" + markdown_table(columns, rows) + by_profession(results)
    )


def by_profession(results: list[dict]) -> str:
    """The deviation ratio of each profession."""
    names = list(results[0]["deviations"])
    rows = [
        [f"{r['cfg']:g}", r["attribute"], r["method"], *(f"{r['deviations'][name]:.3f}" for name in names)]
        for r in results
    ]
    return "\n## Deviation ratio by profession\n\n" + markdown_table(["CFG", "attribute", "method", *names], rows)


def coin_tosses(images: int) -> float:
    """Mean deviation ratio of fair coins."""
    return float(scipy.stats.binom(images, 0.5).expect(lambda heads: np.abs(2 * heads / images - 1)))


def rows_to_scale_by(bench: Bench, task: Task, vector: Vector) -> list[dict]:
    """The figures at each strength, unsteered first, as far as there are professions left.

    Measured on the professions that the vector was found on, so that the others stay unseen.
    """
    names = [name for name in (*MOSTLY_MEN, *MOSTLY_WOMEN) if name in task.learn_professions]
    task, rows = replace(task, test_professions=names), []
    for strength in (0.0, *STRENGTHS):
        rows += bench.sweep(task, vector, (strength,), CALIBRATION_IMAGES)
        if rows[-1]["profession"] < rows[0]["profession"] - 0.2:
            break
    return rows


def right_strength(rows: list[dict]) -> float:
    """The lowest strength with about as much of the concept as any that does no harm, from the rows of all."""
    most_before = itertools.accumulate((row["profession"] for row in rows), max)
    # What does harm at one strength is not trusted at a higher one, however it came out there. Steering may also help.
    pairs = itertools.takewhile(
        lambda pair: pair[0]["profession"] >= pair[1] - HARM, zip(rows, most_before, strict=True)
    )
    harmless = [row for row, _ in pairs][1:] or rows[1:2]
    most = max(row["concept"] for row in harmless)
    return next(row["strength"] for row in harmless if row["concept"] >= most - ENOUGH)
