"""The command `hspace-evaluate`, and `python -m hspace_library.evaluation`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import add_ray, run

EXPERIMENTS = {
    "fair": "deviation ratio of gender, race and both, by profession",
    "safe": "unsafe images of prompts that tend to bring them",
    "heard": "what becomes of requests such as 'no violence' or 'of any gender' in a prompt",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="hspace-evaluate", description="The experiments of the paper's section 4 on a checkpoint of yours."
    )
    commands = parser.add_subparsers(metavar="EXPERIMENT", required=True, dest="experiment")
    for name, text in EXPERIMENTS.items():
        _add_options(commands.add_parser(name, help=text, description=text))
    options = parser.parse_args(arguments)

    def work() -> int:
        from rich.console import Console

        from .run import evaluate

        return evaluate(options, Console())

    return run("hspace-evaluate", work)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="a complete checkpoint, or demo")
    add("--vectors", type=Path, required=True, metavar="DIR", help="folder of the checkpoint's vectors")
    add("--out", type=Path, metavar="DIR", help="folder of the results; evaluation_<experiment> unless given")
    add("--judge", action="append", metavar="NAME", help="clip, nudenet, demo, or module:name; may be repeated")
    add("--clip-text", metavar="FILE", help="text encoder of a CLIP with its projection")
    add("--clip-vision", metavar="FILE", help="vision encoder of the same CLIP")
    add("--fid-weights", default="", metavar="FILE", help="TorchScript Inception network; then FID is computed")
    add("--images", type=_positive, default=150, help="of each profession or prompt, and method")
    add("--profession", action="append", help="in place of the list's; may be repeated")
    add("--successful", action="store_true", help="the wordings with 'successful' (Gender+ and Race+ of the paper)")
    add("--attribute", action="append", choices=["gender", "race", "both"], help="of fair; may be repeated")
    add("--prompts", type=Path, metavar="CSV", help="of safe: a list of prompts, as I2P's; a small one unless given")
    add("--category", action="append", help="of safe: to keep of the list; may be repeated")
    add("--method", action="append", help="to run; all unless given; may be repeated")
    add("--strength", type=float, default=1.0, help="of the vectors")
    add("--unsafe-text", default="", help="what negative prompt and SLD move away from")
    add("--safe-word", default="", help="what 'word in the prompt' adds in safe")
    add("--size", type=int, default=0, help="of the images in pixels; the model's native size unless given")
    add("--steps", type=_positive, default=0, help="of sampling; 50 unless given, 20 for demo")
    add("--cfg", type=float, help="7.5 unless given, 4 for demo")
    add("--batch-size", type=_positive, default=8, help="images that are sampled together")
    add("--workers", type=int, default=0, help="0: one a share of a GPU, or one a core")
    add("--device", choices=["auto", "gpu", "cpu"], default="auto")
    add("--gpus", type=float, default=1.0, help="GPUs a worker, 0.5 for two on one")
    add("--threads", type=_positive, default=1, help="of a worker on a CPU")
    add("--dry-run", action="store_true", help="check everything, say what it costs, and stop")
    add_ray(parser)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small; 1 is the least")
    return value


if __name__ == "__main__":
    sys.exit(main())
