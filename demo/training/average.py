"""Average U-Nets: `run_module.py demo.training.average A.safetensors B.safetensors` writes the mean as the model's weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import comfy.utils
import torch

from ..architecture import UNET_WEIGHTS
from .train_unet import write_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("unets", nargs="+", type=Path, help="weights of one run at several of its steps")
    options = parser.parse_args()
    states = [comfy.utils.load_torch_file(str(path), safe_load=True) for path in options.unets]
    write_state({key: torch.stack([state[key].float() for state in states]).mean(0) for key in states[0]})
    print(f"{UNET_WEIGHTS}: mean of {len(states)} U-Nets")


if __name__ == "__main__":
    main()
