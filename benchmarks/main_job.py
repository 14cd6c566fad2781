"""The main job in figures: discover a concept on one half of the professions, steer the other half.

Writes main_job.md, .json and .png.
"""

from __future__ import annotations

import argparse
import time

from matplotlib.figure import Figure

from .common import (
    DARK_SKIN,
    NO_WEAPON,
    PAPER_PROTOCOL,
    WOMAN,
    WOMAN_SINGLE_PAIR,
    Bench,
    Task,
    at_fidelity,
    markdown_table,
    percent,
    result_path,
    write_json,
    write_report,
)

STRENGTHS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
QUICK_STRENGTHS = (0.0, 0.5, 1.0, 2.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--images", type=int, default=128, help="images a strength")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="32 images, strengths 0, 0.5, 1, 2")
    parser.add_argument("--paper", action="store_true", help="also the paper's protocol, which takes minutes")


def run(options: argparse.Namespace) -> None:
    """Measure, and write the results."""
    images, strengths = (32, QUICK_STRENGTHS) if options.quick else (options.images, STRENGTHS)
    bench, results = Bench(), []
    jobs = [(task, {}) for task in (WOMAN, DARK_SKIN, NO_WEAPON, WOMAN_SINGLE_PAIR)]
    if options.paper:
        jobs.append((WOMAN, PAPER_PROTOCOL))
    for task, settings in jobs:
        results.append(measure(bench, task, {"seed": options.seed, **settings}, strengths, images))
        write_json("main_job", results)
    write_report("main_job", report(results, images))
    plot(results)


def measure(bench: Bench, task: Task, settings: dict, strengths: tuple[float, ...], images: int) -> dict:
    """One discovery and its strength sweep."""
    discovery, seconds = bench.discover(task, **settings)
    began = time.perf_counter()
    rows = bench.sweep(task, discovery.vector, strengths, images)
    ceiling = bench.judge_prompts(task, images, say_concept=True) if task.wording else None
    best, method = at_fidelity(rows), discovery.vector.provenance.method
    result = {
        "concept": task.name,
        "method": method,
        "pairs": len(task.base),
        "evaluations": discovery.evaluations,
        "seconds": round(seconds, 1),
        "judging_seconds": round(time.perf_counter() - began, 1),
        "rows": rows,
        "ceiling": ceiling,
        "at_95": best,
    }
    print(
        f"{task.name} ({method}): {discovery.evaluations} evaluations, {seconds:.0f} s; "
        f"unsteered {percent(rows[0]['concept'])}, at strength {best['strength']:g} {percent(best['concept'])} "
        f"with the profession in {percent(best.get('profession', 0))}",
        flush=True,
    )
    for row in rows:
        print(f"   {row['strength']:4.1f}  {percent(row['concept']):>8}  {percent(row['profession']):>8}", flush=True)
    return result


def report(results: list[dict], images: int) -> str:
    """The Markdown page."""
    strengths = [f"{row['strength']:g}" for row in results[0]["rows"]]
    columns = ["concept", "method", "pairs", "evaluations", "seconds", *strengths, "named"]
    rows, lines = [], []
    for result in results:
        facts = [result["concept"], result["method"], str(result["pairs"]), str(result["evaluations"])]
        cells = [cell(row) for row in [*result["rows"], result["ceiling"]]]
        rows.append([*facts, f"{result['seconds']:.0f}", *cells])
        best, unsteered = result["at_95"], percent(result["rows"][0]["concept"])
        lines.append(
            f"- {result['concept']} ({result['method']}, {result['pairs']} pairs): "
            f"{unsteered} unsteered, {percent(best['concept'])} at strength {best['strength']:g}\n"
        )
    return (
        "# Main job on the demo model\n\n"
        f"{images} images a cell, 20 steps of Euler, CFG 4, same seeds in every cell, professions that discovery never "
        "saw. Each cell: share of images with the concept / share with the profession still recognised, by the demo "
        "model's classifier. *Named*: the prompt says it, the ceiling.\n\n"
        + markdown_table(columns, rows)
        + "\nAt the strength with the highest concept rate among those that keep the profession in 95 %:\n\n"
        + "".join(lines)
    )


def cell(row: dict[str, float] | None) -> str:
    """ "91 / 97"."""
    return "–" if row is None else f"{100 * row['concept']:.0f} / {100 * row['profession']:.0f}"


def plot(results: list[dict]) -> None:
    """Concept rate (solid) and fidelity (dashed) over strength."""
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        x = [row["strength"] for row in result["rows"]]
        label = f"{result['concept']} ({result['method']})"
        axes.plot(x, [100 * row["concept"] for row in result["rows"]], color=f"C{number}", marker="o", label=label)
        axes.plot(x, [100 * row["profession"] for row in result["rows"]], color=f"C{number}", linestyle="--")
    axes.set(
        xlabel="strength",
        ylabel="% of images",
        ylim=(0, 102),
        title="Concept rate (solid) and profession recognised (dashed)",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(result_path("main_job.png"))
