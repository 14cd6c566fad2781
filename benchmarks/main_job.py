"""The main job in figures: discover a concept on one half of the professions, steer the other half.

`make benchmark` writes benchmarks/results/main_job.md, .json and .png. `--paper` adds the paper's protocol for "woman" at
full size; `--quick` is for a look.
"""

from __future__ import annotations

import argparse
import time

from .common import (
    DARK_SKIN,
    NO_WEAPON,
    PAPER,
    RESULTS,
    WOMAN,
    WOMAN_SINGLE_PAIR,
    Bench,
    Task,
    at_fidelity,
    markdown_table,
    percent,
    write_json,
)

STRENGTHS = [0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="images a strength")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="32 images, strengths 0, 0.5, 1, 2")
    parser.add_argument("--paper", action="store_true", help="also the paper's protocol, which takes minutes")
    options = parser.parse_args()
    images, strengths = (32, [0.0, 0.5, 1.0, 2.0]) if options.quick else (options.images, STRENGTHS)
    bench = Bench()
    runs = [(task, "distilled", {}) for task in (WOMAN, DARK_SKIN, NO_WEAPON, WOMAN_SINGLE_PAIR)]
    if options.paper:
        runs.append((WOMAN, "paper", PAPER))
    results = []
    for task, method, settings in runs:
        results.append(run(bench, task, method, {"seed": options.seed, **settings}, strengths, images))
        write_json("main_job", results)
    (RESULTS / "main_job.md").write_text(report(results, images))
    plot(results)


def run(bench: Bench, task: Task, method: str, settings: dict, strengths: list[float], images: int) -> dict:
    """One discovery and its strength sweep."""
    found, seconds = bench.discover(task, **settings)
    began = time.perf_counter()
    rows = bench.sweep(task, found.direction, strengths, images)
    ceiling = bench.judge_prompts(task, images, named=True) if task.named else None
    result = {
        "concept": task.name,
        "method": method,
        "pairs": len(task.base),
        "evaluations": found.evaluations,
        "seconds": round(seconds, 1),
        "judging_seconds": round(time.perf_counter() - began, 1),
        "rows": rows,
        "ceiling": ceiling,
        "at_95": at_fidelity(rows),
    }
    best = result["at_95"]
    print(f"{task.name} ({method}): {found.evaluations} evaluations, {seconds:.0f} s; unsteered {percent(rows[0]['concept'])}, "
          f"at strength {best['strength']:g} {percent(best['concept'])} with the profession in {percent(best.get('profession', 0))}",
          flush=True)  # fmt: skip
    for row in rows:
        print(f"   {row['strength']:4.1f}  {percent(row['concept']):>8}  {percent(row['profession']):>8}", flush=True)
    return result


def report(results: list[dict], images: int) -> str:
    """The Markdown table."""
    strengths = [row["strength"] for row in results[0]["rows"]]
    header = ["concept", "method", "pairs", "evaluations", "seconds", *(f"{s:g}" for s in strengths), "named"]
    rows = []
    for result in results:
        cells = [cell(row) for row in [*result["rows"], result["ceiling"]]]
        rows.append([result["concept"], result["method"], str(result["pairs"]), str(result["evaluations"]),
                     f"{result['seconds']:.0f}", *cells])  # fmt: skip
    lines = [
        "# Main job on the demo model",
        "",
        f"{images} images a cell, 20 steps of Euler, CFG 4, same seeds in every cell, professions that discovery never saw. "
        "Each cell: share of images with the concept / share whose profession is still recognised, by the demo model's "
        "classifier. *Named*: the prompt says it, the ceiling.",
        "",
        markdown_table(header, rows),
    ]
    lines += ["At the strength with the highest concept rate among those that keep the profession in 95 %:", ""]
    for result in results:
        best = result["at_95"]
        lines.append(f"- {result['concept']} ({result['method']}, {result['pairs']} pairs): "
                     f"{percent(result['rows'][0]['concept'])} unsteered, {percent(best['concept'])} at strength {best['strength']:g}")  # fmt: skip
    return "\n".join(lines) + "\n"


def cell(row: dict[str, float] | None) -> str:
    """ "91 / 97"."""
    return "–" if row is None else f"{100 * row['concept']:.0f} / {100 * row['profession']:.0f}"


def plot(results: list[dict]) -> None:
    """Concept rate (solid) and fidelity (dashed) over strength."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    FigureCanvasAgg(figure).print_png(RESULTS / "main_job.png")


if __name__ == "__main__":
    main()
