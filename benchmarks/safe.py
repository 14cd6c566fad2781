"""Safe generation: weapons that nobody asked for, that somebody asked for, and prompts that have nothing to do with them.

`run_module.py benchmarks.safe` writes benchmarks/results/safe.md, .json, .png and .jpg. Needs the vectors of
`make vectors`.
"""

from __future__ import annotations

import argparse

import torch

from ..demo.captions import ARMED, caption
from ..demo.classifier import classify
from .baselines import SLD_SETTINGS, draw_with_sld
from .common import ARMED_STEERED_ON, RESULTS, Bench, markdown_table, percent, write_json
from .pictures import bars, image_rows
from .responsible import FIRST_SEED, UNSEEN, Drawn, draw_cell, fidelity, share, vector, with_interval

WEAPON = "a person, with a weapon"
SHOWN_CFG = 4.0
METHODS = ("unsteered", "negative prompt", *SLD_SETTINGS, "vector", "vector and negative prompt")
SETS = {
    "unasked": lambda p: caption(p),
    "asked for": lambda p: caption(p, weapon=True),
    "harmless": lambda p: caption(p),
}
CHARACTERS = {
    "unasked": ARMED_STEERED_ON,
    "asked for": ARMED_STEERED_ON,
    "harmless": [name for name in UNSEEN if name not in ARMED][:6],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50, help="images a profession")
    parser.add_argument("--cfg", type=float, action="append")
    options = parser.parse_args()
    bench, results, shown = Bench(), [], {}
    for cfg in options.cfg or [SHOWN_CFG, 2.0, 7.0]:
        for kind, prompt in SETS.items():
            professions = CHARACTERS[kind]
            cells = {p: draw_cell(bench, [prompt(p)] * options.images, cfg=cfg) for p in professions}
            for method in METHODS:
                result, images = run(bench, kind, method, cells, [prompt(p) for p in professions], cfg)
                results.append(result)
                write_json("safe", results)
                if (cfg, kind) == (SHOWN_CFG, "unasked"):
                    shown[method] = images
    (RESULTS / "safe.md").write_text(report(results, options.images))
    if shown:
        image_rows(shown, RESULTS / "safe.jpg")
    at = [r for r in results if r["cfg"] == SHOWN_CFG] or results
    panels = {kind: [(r["method"], *(100 * r["weapon"][key] for key in ("share", "low", "high")))
                     for r in at if r["prompts"] == kind] for kind in SETS}  # fmt: skip
    bars(panels, "% of images with a weapon", RESULTS / "safe.png")


def run(
    bench: Bench, kind: str, method: str, unsteered: dict[str, Drawn], prompts: list[str], cfg: float
) -> tuple[dict, torch.Tensor]:
    """One method on one set of prompts; its figures, and its images of the first profession."""
    weapons, rows, shown = [], [], None
    for prompt, (profession, plain) in zip(prompts, unsteered.items(), strict=True):
        texts = [prompt] * len(plain.images)
        negative = WEAPON if "negative" in method else ""
        if method == "unsteered":
            drawn = plain
        elif method in SLD_SETTINGS:
            seeds = [FIRST_SEED + i for i in range(len(texts))]
            images = draw_with_sld(*bench.drawing_parts, texts, seeds, WEAPON, SLD_SETTINGS[method], cfg).clone()
            drawn = Drawn(images, classify(bench.judge, images))
        else:
            concept = vector("no weapon") if "vector" in method else None
            drawn = draw_cell(bench, texts, concept, cfg=cfg, negative=negative)
        shown = drawn.images if shown is None else shown
        weapons.append(drawn.seen.weapon)
        rows.append(fidelity(drawn, plain, profession))
    means = {key: sum(row[key] for row in rows) / len(rows) for key in ("profession", "psnr")}
    result = {"prompts": kind, "method": method, "cfg": cfg, "weapon": share(torch.cat(weapons)), **means}
    print(f"cfg {cfg:g} {kind:>9} {method:>26}: weapon {percent(result['weapon']['share'])}, profession "
          f"{percent(means['profession'])}", flush=True)  # fmt: skip
    return result, shown


def report(results: list[dict], images: int) -> str:
    """The Markdown page."""
    rows = [
        [f"{r['cfg']:g}", r["prompts"], r["method"],
         with_interval(r["weapon"]["share"], images * len(CHARACTERS[r["prompts"]])),
         with_interval(r["profession"], images * len(CHARACTERS[r["prompts"]])), f"{r['psnr']:.1f} dB"]
        for r in results
    ]  # fmt: skip
    header = [
        "CFG",
        "weapon is",
        "method",
        "images with a weapon (95 % interval)",
        "profession recognised",
        "PSNR to unsteered",
    ]
    return (
        "# Safe generation on the demo model\n\n"
        f"Characters that the training data arm half of the time although the caption does not say so, and harmless "
        f"professions; {images} images a profession, none of which the vector was found on; same seeds in every row, "
        f"strength 1. Negative prompt and SLD's unsafe prompt: “{WEAPON}”.\n\n" + markdown_table(header, rows)
    )


if __name__ == "__main__":
    main()
