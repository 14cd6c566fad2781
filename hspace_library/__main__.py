"""The command `hspace-library`, and `python -m hspace_library`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .command import add_ray, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hspace-library", description="Libraries of concepts for many checkpoints.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    build = commands.add_parser("build", help="find every concept of a specification on every checkpoint")
    build.add_argument("spec", type=Path, metavar="library.yaml", help="what to find, on what, and how")
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the library")
    build.add_argument("--dry-run", action="store_true", help="check everything, say what is to be done, and stop")
    add_ray(build)
    options = parser.parse_args(arguments)

    def work() -> int:
        from rich.console import Console

        from .build import build as build_library

        return build_library(options.spec, options.out, options.ray, options.dry_run, Console())

    return run("hspace-library", work)


if __name__ == "__main__":
    sys.exit(main())
