"""Do vectors of opposite concepts point apart, and does negating one give the other?

Writes opposites.md. Needs the vectors of `make vectors`.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import torch
import torch.nn.functional as F

from hspace import Concept

from .common import Bench, Task, at_fidelity, markdown_table, numbers, percent, write_report
from .discovery import CONCEPTS
from .discovery_methods import METHODS, PAPERS_LOSS
from .responsible import shipped_vector

NAMES = ("woman", "man", "dark skin", "light skin")
STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)
OPPOSITES = (("woman", "man"), ("man", "woman"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=96, help="images a strength")


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    bench, method = Bench(), METHODS[PAPERS_LOSS]
    ours = {name: shipped_vector(name).tensor for name in NAMES}
    papers = {name: method(bench, CONCEPTS[name], 0)[0].tensor for name in NAMES}
    null, _, _ = replace(method, sampled_under=("concept",))(bench, neutral(CONCEPTS["dark skin"]), 0)
    cosines = [
        [
            f"{a}, {b}",
            f"{cosine(ours[a], ours[b]):.2f}",
            f"{cosine(papers[a], papers[b]):.2f}",
            f"{cosine(papers[a] - null.tensor, papers[b] - null.tensor):.2f}",
        ]
        for a, b in itertools.combinations(NAMES, 2)
    ]
    with_null = [
        f"{name} {cosine(papers[name], null.tensor):.2f} (ours {cosine(ours[name], null.tensor):.2f})" for name in NAMES
    ]
    text = (
        "# Opposite concepts on the demo model\n\n"
        "Cosines of vectors: those that ship (distilled), and those of the paper's loss at the same cost (5,000 "
        "evaluations), before and after the *null* vector is subtracted, which the paper's loss finds on images of the "
        "neutral prompts themselves. A distilled null vector is zero: if concept and base are one prompt, the teacher "
        "asks for nothing.\n\n"
        + markdown_table(["vectors", "ours", "paper's", "paper's, null subtracted"], cosines)
        + f"\nCosine with the null vector: {', '.join(with_null)}.\n\n"
        "Negated: the share with the concept, and with the profession still recognised, at the strength with most of "
        f"the concept among {numbers(STRENGTHS)} that keep 95 % of the professions; {options.images} images of "
        "professions that no vector was found on.\n\n"
        + markdown_table(
            ["wanted", "unsteered", "its own vector", "the opposite's, negated", "half of each"],
            [negated(bench, wanted, opposite, options.images) for wanted, opposite in OPPOSITES],
        )
    )
    print(text)
    write_report("opposites", text)


def neutral(task: Task) -> Task:
    """The task with its neutral prompts in place of its concept prompts."""
    return replace(task, name="null", concept=list(task.base), base=list(task.base))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The cosine of two vectors; one with a value a channel counts as a map."""
    a, b = torch.broadcast_tensors(a, b)
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def negated(bench: Bench, wanted: str, opposite: str, images: int) -> list[str]:
    """A row of the second table."""
    task, own, other = CONCEPTS[wanted], shipped_vector(wanted), shipped_vector(opposite)
    concepts: tuple[Concept, ...] = (own, -1.0 * other, 0.5 * own + -0.5 * other)
    plain = bench.judge_prompts(task, images)
    row = [wanted, f"{percent(plain['concept'])}, {percent(plain['profession'])}"]
    for concept in concepts:
        best = at_fidelity(bench.sweep(task, concept, STRENGTHS, images))
        row.append(f"{percent(best['concept'])}, {percent(best.get('profession', 0.0))} at {best['strength']:g}")
    return row
