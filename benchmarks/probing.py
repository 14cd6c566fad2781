"""Probe Concepts: does its score rank professions by their share of women, and could a gate act on it?

Writes probing.md and .json. Needs the vectors of `make vectors`.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import scipy.stats
import torch

from demo.captions import ARMED, PROFESSIONS, caption
from demo.classifier import Attributes, classify
from demo.generate import CFG, STEPS, decode, encode, noise_for
from hspace import Concept
from hspace.steering import END_PERCENT, Reading, apply_steering, find_reading, probe_concepts

from .common import (
    ARMED_TEST_PROFESSIONS,
    UNSEEN,
    Bench,
    cycled,
    markdown_table,
    percent,
    rate,
    seeds,
    write_json,
    write_report,
)
from .responsible import FIRST_SEED, shipped_vector

BATCH = 64
LATE = (0.0, 0.1, 0.2, 0.3)
HARMLESS = [name for name in UNSEEN if name not in ARMED]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=24, help="images a profession")
    parser.add_argument("--weapons", type=int, default=200, help="images of armed, and of harmless characters")


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    bench = Bench()
    bias = measure_bias(bench, options.images)
    gate = measure_gate(bench, options.weapons)
    late = [measure_late(bench, start, options.weapons) for start in LATE]
    write_json("probing", [{"bias": bias, "gate": gate, "late": late}])
    write_report("probing", report(bias, gate, late, options))


def probed(bench: Bench, prompts: list[str], concepts: list[Concept]) -> tuple[Reading, Attributes]:
    """Sample with a probe: what it read and what the judge says, of all images."""
    import comfy.sample

    model, clip, vae = bench.sampling_parts
    model, probe = probe_concepts(model, concepts)
    readings, judged = [], []
    with torch.inference_mode():
        for start in range(0, len(prompts), BATCH):
            texts = prompts[start : start + BATCH]
            noise = noise_for(seeds(len(prompts), FIRST_SEED)[start : start + BATCH])
            latents = comfy.sample.sample(
                model,
                noise,
                STEPS,
                CFG,
                "euler",
                "normal",
                encode(clip, texts),
                encode(clip, [""]),
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=0,
            )
            readings.append(find_reading(probe.content, latents))
            judged.append(classify(bench.judge, decode(vae, latents).clone()))
            print(f"{start + len(texts)} of {len(prompts)} images", flush=True)
    steps, scores = torch.cat([r.steps for r in readings], 1), torch.cat([r.scores for r in readings])
    attributes = {key: torch.cat([getattr(part, key) for part in judged]) for key in ("gender", "weapon")}
    empty = torch.zeros(0)
    return Reading(readings[0].names, readings[0].sigmas, steps, scores), Attributes(
        gender=attributes["gender"], skin_tone=empty, profession=empty, weapon=attributes["weapon"]
    )


def measure_bias(bench: Bench, images: int) -> list[dict]:
    """For each concept and way to read it, how well it ranks professions and single images."""
    woman, man = shipped_vector("woman"), shipped_vector("man")
    names = [name for name in PROFESSIONS for _ in range(images)]
    reading, attributes = probed(bench, [caption(name) for name in names], [woman + -1.0 * man, woman])
    women = attributes.gender.double().reshape(-1, images)
    rows = []
    for index, name in enumerate(("woman - man", "woman")):
        for way, values in (
            ("score: the image", reading.scores[:, index]),
            ("own prediction, mean of the steps", reading.steps[..., index].mean(0)),
        ):
            groups = values.double().reshape(-1, images)
            share = women.mean(1)
            rank = float(scipy.stats.spearmanr(groups.mean(1), share).statistic)
            draws = np.random.default_rng(0).integers(0, len(share), (1000, len(share)))
            ranks = [scipy.stats.spearmanr(groups.mean(1)[d], share[d]).statistic for d in draws]
            low, high = np.quantile(ranks, [0.025, 0.975])
            auc = area_under_curve(values, attributes.gender)
            shown = {gender: values[attributes.gender == gender].mean().item() for gender in (0, 1)}
            rows.append(
                {
                    "concept": name,
                    "way": way,
                    "rank correlation": rank,
                    "low": float(low),
                    "high": float(high),
                    "image AUC": auc,
                    "men": shown[0],
                    "women": shown[1],
                }
            )
            print(rows[-1], flush=True)
    return rows


def measure_gate(bench: Bench, images: int) -> list[dict]:
    """What a gate on the first k steps would let through, if it never changed a harmless image."""
    armed, harmless = cycled(ARMED_TEST_PROFESSIONS, images), cycled(HARMLESS, images)
    prompts = [caption(name) for name in (*armed, *harmless)]
    reading, attributes = probed(bench, prompts, [shipped_vector("no weapon")])
    weapon = attributes.weapon.bool()
    rows = []
    for count in range(1, len(reading.steps) + 1):
        need = -reading.steps[:count, :, 0].mean(0)  # high where a weapon is on its way
        least = need[images:].max()
        missed = weapon[:images] & (need[:images] <= least)
        rows.append(
            {
                "steps": count,
                "AUC": area_under_curve(need[:images], attributes.weapon[:images]),
                "weapons": rate(weapon[:images]),
                "weapons that the gate misses": rate(missed),
            }
        )
        print(rows[-1], flush=True)
    return rows


def measure_late(bench: Bench, start: float, images: int) -> dict:
    """Weapons that are left where steering begins late."""
    steer = partial(apply_steering, concept=shipped_vector("no weapon"), start_percent=start)
    prompts = [caption(name) for name in cycled(ARMED_TEST_PROFESSIONS, images)]
    attributes = classify(bench.judge, bench.sample(prompts, seeds(images, FIRST_SEED), steer))
    row = {"start": start, "weapons": rate(attributes.weapon.bool())}
    print(row, flush=True)
    return row


def area_under_curve(values: torch.Tensor, classes: torch.Tensor) -> float:
    """The share of pairs of images of both classes that the values put in order; 0.5 is chance."""
    high, low = values[classes == 1].numpy(), values[classes == 0].numpy()
    return float(scipy.stats.mannwhitneyu(high, low).statistic / (len(high) * len(low)))


def report(bias: list[dict], gate: list[dict], late: list[dict], options: argparse.Namespace) -> str:
    """The Markdown page."""
    ranks = [
        [
            row["concept"],
            row["way"],
            f"{row['rank correlation']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            f"{row['image AUC']:.2f}",
            f"{row['men']:+.2f}",
            f"{row['women']:+.2f}",
        ]
        for row in bias
    ]
    gates = [
        [str(row["steps"]), f"{row['AUC']:.2f}", percent(row["weapons"]), percent(row["weapons that the gate misses"])]
        for row in gate
    ]
    return (
        "# Probe Concepts on the demo model\n\n"
        f"{len(PROFESSIONS)} professions, {options.images} images each, prompts that name nothing but the profession; "
        f"the first {END_PERCENT:.0%} of sampling is probed. Rank correlation (Spearman, 95 % interval by bootstrap of "
        "the professions) between a profession's mean score and its share of women; AUC: the share of pairs of a man "
        "and a woman that the score of the single image puts in order.\n\n"
        + markdown_table(["concept", "read from", "rank correlation", "image AUC", "mean of men", "of women"], ranks)
        + "\n## A gate\n\n"
        f"Could steering wait for the score? {options.weapons} images of characters that carry a weapon half of the "
        f"time, and {options.weapons} of harmless ones. The threshold is such that no harmless image is steered; "
        "*missed* are weapons below it, as a share of the first images.\n\n"
        + markdown_table(["probed steps", "AUC", "weapons, unsteered", "missed"], gates)
        + "\nAnd how late steering may begin, if it does:\n\n"
        + markdown_table(
            ["steering starts at", "weapons left"], [[f"{r['start']:g}", percent(r["weapons"])] for r in late]
        )
    )
