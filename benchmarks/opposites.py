"""Do vectors of opposite concepts point apart, and does negating one give the other?

`run_module.py benchmarks.opposites` writes benchmarks/results/opposites.md. Needs the vectors of `make vectors`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools

import torch
import torch.nn.functional as F

from ..hspace.concept import Direction, Sum
from .common import RESULTS, Bench, Task, at_fidelity, markdown_table, percent
from .discovery import CONCEPTS
from .discovery_methods import METHODS
from .responsible import vector

NAMES = ("woman", "man", "dark skin", "light skin")
STRENGTHS = [0.5, 0.75, 1.0, 1.25, 1.5]
PAPER = "paper's loss"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96, help="images a strength")
    options = parser.parse_args()
    bench = Bench()
    ours = {name: vector(name).tensor for name in NAMES}
    papers = {name: METHODS[PAPER](bench, CONCEPTS[name], 0)[0].tensor for name in NAMES}
    on_given_images = dataclasses.replace(METHODS[PAPER], own_samples=True)
    offset = on_given_images(bench, neutral(CONCEPTS["dark skin"]), 0)[0].tensor
    cosines = [
        [f"{a}, {b}", f"{cosine(ours[a], ours[b]):.2f}", f"{cosine(papers[a], papers[b]):.2f}",
         f"{cosine(papers[a] - offset, papers[b] - offset):.2f}"]
        for a, b in itertools.combinations(NAMES, 2)
    ]  # fmt: skip
    explained = [f"{name} {cosine(papers[name], offset):.2f} (ours {cosine(ours[name], offset):.2f})" for name in NAMES]
    text = (
        "# Opposite concepts on the demo model\n\n"
        "Cosines of vectors: those that ship (distilled), and those of the paper's loss at the same cost (5,000 evaluations), "
        "before and after the *null* vector is subtracted, which the paper's loss finds on images of the neutral prompts "
        "themselves. A distilled null vector is zero: where concept and base are one prompt, the teacher asks for nothing.\n\n"
        + markdown_table(["vectors", "ours", "paper's", "paper's, null subtracted"], cosines)
        + f"\nCosine with the null vector: {', '.join(explained)}.\n\n"
        "Negated: the share with the concept, and with the profession still recognised, at the strength with most of the "
        f"concept among {', '.join(f'{s:g}' for s in STRENGTHS)} that keep 95 % of the professions; {options.images} images of "
        "professions that no vector was found on.\n\n"
        + markdown_table(
            ["wanted", "unsteered", "its own vector", "the opposite's, negated", "half of each"],
            [negated(bench, wanted, opposite, options.images) for wanted, opposite in (("woman", "man"), ("man", "woman"))],
        )
    )  # fmt: skip
    print(text)
    (RESULTS / "opposites.md").write_text(text)


def neutral(task: Task) -> Task:
    """The task whose concept prompts are its neutral ones."""
    return dataclasses.replace(task, name="null", concept=list(task.base), base=list(task.base))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = torch.broadcast_tensors(a, b)  # one value a channel, against a map
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def negated(bench: Bench, wanted: str, opposite: str, images: int) -> list[str]:
    """A row of the second table."""
    task = CONCEPTS[wanted]
    own, other = vector(wanted), vector(opposite)
    concepts: dict[str, Direction | Sum] = {
        "own": own, "negated": Sum(((-1.0, other),)), "half of each": Sum(((0.5, own), (-0.5, other))),
    }  # fmt: skip
    plain = bench.judge_prompts(task, images)
    row = [wanted, f"{percent(plain['concept'])}, {percent(plain['profession'])}"]
    for concept in concepts.values():
        best = at_fidelity(bench.sweep(task, concept, STRENGTHS, images))
        row.append(f"{percent(best['concept'])}, {percent(best.get('profession', 0.0))} at {best['strength']:g}")
    return row


if __name__ == "__main__":
    main()
