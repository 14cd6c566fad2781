"""Throw broken inputs at everything that reads files and texts of strangers. Run in the repository's root:

    .venv/bin/python -m tests.fuzz                      200,000 inputs, shared among all targets
    .venv/bin/python -m tests.fuzz --seconds 120        as many as two minutes allow
    .venv/bin/python -m tests.fuzz --target "vector file" --seed 1 --only 4711

An input may be accepted, or refused with a ValueError of one short line that says what to do. Anything else is a fault:
another exception, more than a second, or memory that grows by more than 300 MB.
"""

from __future__ import annotations

import argparse

from scripts.comfyui import find_comfyui, load_pack

find_comfyui()
load_pack()

from .runner import run  # noqa: E402
from .targets import TARGETS  # noqa: E402

HANGS_AFTER = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000, help="in all; default 200,000")
    parser.add_argument("--seconds", type=float, help="stop after this time, whatever the number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="other inputs; default 0")
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="only this one")
    parser.add_argument("--only", type=int, help="only the input of this number, to see one fault again")
    arguments = parser.parse_args()
    targets = [target for target in TARGETS if arguments.target in (None, target.name)]
    shares, faults, inputs = sum(target.share for target in targets), 0, 0
    for target in targets:
        result = run(
            target,
            arguments.seed,
            count=round(arguments.inputs * target.share / shares) if arguments.seconds is None else None,
            seconds=None if arguments.seconds is None else arguments.seconds * target.share / shares,
            numbers=None if arguments.only is None else [arguments.only],
            hangs_after=HANGS_AFTER,
        )
        faults, inputs = faults + len(result.faults), inputs + result.accepted + result.refused
        print(result, flush=True)
    print(f"{inputs:,} inputs, {faults} faults", flush=True)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
