"""Fair generation: how evenly genders and skin tones come out, per profession, and what it costs in fidelity.

`run_module.py benchmarks.fair` writes benchmarks/results/fair.md, .json, .png and fair_*.jpg, in two hours on two
CPU cores. Needs the vectors of `make vectors`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache, partial

import torch

from ..demo.captions import GENDERS, SKIN_TONES, caption
from ..hspace.concept import Concept, Direction
from .baselines import mean_difference
from .common import PAPER, RESULTS, Bench, Task, markdown_table, store
from .pictures import PER_ROW, bars, image_rows
from .responsible import (
    UNSEEN,
    Drawn,
    deviation_of,
    draw_cell,
    fidelity,
    gender_choice,
    mean_deviation,
    tone_choice,
    unnamed,
    with_interval,
)
from .shipped_vectors import STRENGTHS, TASKS, calibrate

CLASSES = {"gender": len(GENDERS), "skin tone": len(SKIN_TONES), "both": len(GENDERS) * len(SKIN_TONES)}
PAPER_METHOD = "paper's vectors"
METHODS = ("unsteered", "word in the prompt", "mean difference", "ours, random", "ours, balanced", PAPER_METHOD)
METHODS_OF = {
    "gender": METHODS,
    "skin tone": METHODS[:-1],
    "both": tuple(method for method in METHODS[:-1] if method != "mean difference"),
}
"""The paper's protocol for each of seven vectors would take an hour."""
FOUND_HERE = ("mean difference", PAPER_METHOD)
CALIBRATION_IMAGES = 48
SHOWN_CFG = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150, help="images a profession")
    parser.add_argument("--professions", type=int, default=6)
    parser.add_argument("--cfg", type=float, action="append", help="default: 4, 2 and 7")
    parser.add_argument("--attribute", action="append", choices=list(CLASSES), help="default: all")
    parser.add_argument("--method", action="append", choices=METHODS, help="default: all; other results are kept")
    options = parser.parse_args()
    bench, results = Bench(), []
    for cfg in options.cfg or [SHOWN_CFG, 2.0, 7.0]:
        plain = {p: draw_cell(bench, unnamed(p, options.images), cfg=cfg) for p in UNSEEN[: options.professions]}
        for attribute in options.attribute or CLASSES:
            for method in METHODS_OF[attribute]:
                if not options.method or method in options.method:
                    results = store("fair", [measure(bench, attribute, method, plain, cfg)], place)
    (RESULTS / "fair.md").write_text(report(results, options.images, options.professions))
    at = [r for r in results if r["cfg"] == SHOWN_CFG] or results
    panels = {
        a: [(r["method"], r["deviation"], r["low"], r["high"]) for r in at if r["attribute"] == a] for a in CLASSES
    }
    bars(panels, "mean deviation ratio, 0 is even", RESULTS / "fair.png")
    for attribute, methods in METHODS_OF.items():
        profession = UNSEEN[0]
        rows = {method: draw_method(bench, attribute, method, profession, PER_ROW, 0, SHOWN_CFG).images
                for method in methods if method not in FOUND_HERE}  # fmt: skip
        image_rows(rows, RESULTS / f"fair_{attribute.replace(' ', '_')}.jpg")


def place(result: dict) -> tuple:
    """Where a result stands among the others."""
    cfg = result["cfg"]
    return cfg != SHOWN_CFG, cfg, list(CLASSES).index(result["attribute"]), METHODS.index(result["method"])


def draw_method(
    bench: Bench, attribute: str, method: str, profession: str, images: int, seed: int, cfg: float
) -> Drawn:
    """Images of one profession under one method; `seed` is that of the choice."""
    if method == "word in the prompt":
        return draw_cell(bench, named(attribute, profession, images, seed), cfg=cfg)
    concept = None if method == "unsteered" else expression(bench, attribute, method, seed)
    return draw_cell(bench, unnamed(profession, images), concept, cfg=cfg)


def measure(bench: Bench, attribute: str, method: str, plain: dict[str, Drawn], cfg: float) -> dict:
    """One method for one attribute over all professions, beside the unsteered images of each."""
    groups, faithful = [], []
    for seed, (profession, unsteered) in enumerate(plain.items()):
        images = len(unsteered.images)
        drawn = unsteered if method == "unsteered" else draw_method(bench, attribute, method, profession, images, seed, cfg)  # fmt: skip
        groups.append(classes(drawn, attribute))
        faithful.append(fidelity(drawn, unsteered, profession))
    deviation, low, high = mean_deviation(groups, CLASSES[attribute])
    means = {key: sum(row[key] for row in faithful) / len(faithful) for key in faithful[0]}
    result = {
        "attribute": attribute,
        "method": method,
        "cfg": cfg,
        "deviation": deviation,
        "low": low,
        "high": high,
        "deviations": {p: deviation_of(group, CLASSES[attribute]) for p, group in zip(plain, groups, strict=True)},
        **means,
    }
    print(f"cfg {cfg:g} {attribute:>9} {method:>18}: deviation {deviation:.3f} ({low:.3f} to {high:.3f}), "
          f"profession {100 * means['profession']:.1f} %", flush=True)  # fmt: skip
    return result


def classes(drawn: Drawn, attribute: str) -> torch.Tensor:
    """Class of each image, int64 `[images]`."""
    if attribute == "both":
        return drawn.seen.gender * len(SKIN_TONES) + drawn.seen.skin_tone
    return drawn.seen.gender if attribute == "gender" else drawn.seen.skin_tone


def named(attribute: str, profession: str, images: int, seed: int) -> list[str]:
    """The ceiling: the same balanced draws, as words in the prompt."""
    genders = gender_choice(seed, load=_placeholder).draw(images) if attribute != "skin tone" else [None] * images
    tones = tone_choice(seed, load=_placeholder).draw(images) if attribute != "gender" else [None] * images
    return [caption(profession, gender=g, skin_tone=t) for g, t in zip(genders, tones, strict=True)]


def _placeholder(name: str) -> Direction:
    return Direction(torch.zeros(1, 1, 1), name, "words")


def expression(bench: Bench, attribute: str, method: str, seed: int) -> Concept:
    """The choice, or sum of choices, that a method steers with."""
    balanced = method != "ours, random"
    find = {"mean difference": _mean_difference, PAPER_METHOD: _paper_vector}.get(method)
    load = {"load": partial(find, bench)} if find else {}
    choices = {"gender": gender_choice, "skin tone": tone_choice}
    chosen = [make(seed, balanced, **load) for name, make in choices.items() if attribute in (name, "both")]
    return chosen[0] if len(chosen) == 1 else chosen[0] + chosen[1]


@cache
def _mean_difference(bench: Bench, name: str) -> Direction:
    task = TASKS[name]
    model, clip, _ = bench.parts
    return _as_shipped(bench, task, mean_difference(model, clip, task.concept, task.base, name))


@cache
def _paper_vector(bench: Bench, name: str) -> Direction:
    task = TASKS[name]
    found, _ = bench.discover(task, **PAPER)
    return _as_shipped(bench, task, found.direction)


def _as_shipped(bench: Bench, task: Task, direction: Direction) -> Direction:
    """Scaled by the rule that scales the shipped vectors; those that nobody calibrated may need to go further."""
    scale, _ = calibrate(bench, task, direction, CALIBRATION_IMAGES, (*STRENGTHS, 3.0, 4.0, 6.0))
    return replace(direction, tensor=scale * direction.tensor)


def report(results: list[dict], images: int, professions: int) -> str:
    """The Markdown page."""
    count = images * professions
    rows = [
        [f"{r['cfg']:g}", r["attribute"], r["method"], f"{r['deviation']:.3f} ({r['low']:.3f} to {r['high']:.3f})",
         with_interval(r["profession"], count), with_interval(r["weapon unchanged"], count), f"{r['psnr']:.1f} dB"]
        for r in results
    ]  # fmt: skip
    header = ["CFG", "attribute", "method", "mean deviation ratio (95 % interval)", "profession recognised",
              "weapon unchanged", "PSNR to unsteered"]  # fmt: skip
    return (
        "# Fair generation on the demo model\n\n"
        f"{professions} professions that no vector was found on, {images} images each, prompts that name nothing but the "
        "profession, same seeds in every row, strength 1. Deviation ratio: 0 is even, 1 is all the same. *Word in the "
        "prompt* is the ceiling: the same balanced draws, written into the prompt. *Mean difference* is a vector without "
        "optimisation, *paper's vectors* are found by the published protocol; both, as ours, are scaled so that strength 1 "
        f"shows most of the concept without harm, and drawn balanced. {images} fair coin tosses have a deviation of {coin_tosses(images):.3f} on average.\n\n"
        + markdown_table(header, rows)
        + by_profession(results)
    )


def by_profession(results: list[dict]) -> str:
    """The deviation ratio of each profession."""
    names = list(results[0]["deviations"])
    rows = [
        [f"{r['cfg']:g}", r["attribute"], r["method"], *(f"{r['deviations'][name]:.3f}" for name in names)]
        for r in results
    ]
    return "\n## Deviation ratio by profession\n\n" + markdown_table(["CFG", "attribute", "method", *names], rows)


def coin_tosses(images: int, trials: int = 2000) -> float:
    """Mean deviation ratio of fair coins."""
    heads = torch.distributions.Binomial(images, 0.5).sample((trials,)) / images
    return (2 * (heads - 0.5).abs()).mean().item()


if __name__ == "__main__":
    main()
