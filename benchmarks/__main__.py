"""`python -m benchmarks NAME [options]`: run one benchmark. Without a name: the list of them."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from pathlib import Path

from .common import RESULTS, header, write_results_to

NAMES = (
    "main_job",
    "discovery",
    "second_architecture",
    "fair",
    "safe",
    "text_enhancing",
    "probing",
    "opposites",
    "shipped_vectors",
    "steering_overhead",
    "step_cost",
    "discovery_overhead",
    "endurance",
    "crashes",
    "scale",
    "full_size",
)
"""Modules with `add_arguments(parser)` and `run(options)`."""


def main(arguments: list[str]) -> None:
    """Parse the command line and run the benchmark that it names; only that one is imported."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks on the demo model.")
    commands = parser.add_subparsers(metavar="NAME")
    for name in NAMES:
        text = _docstring(name)
        command = commands.add_parser(
            name,
            help=text.splitlines()[0].replace("%", "%%"),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in arguments[:1]:
            module = importlib.import_module(f".{name}", __package__)
            module.add_arguments(command)
            command.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    if not arguments:
        parser.print_help()
        return
    header()  # before the run, whose own files would make the working tree look changed
    write_results_to(options.results)
    options.run(options)


def _docstring(name: str) -> str:
    source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


if __name__ == "__main__":
    main(sys.argv[1:])
