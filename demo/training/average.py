"""Average U-Nets: `python -m demo.training.average A.safetensors B.safetensors` writes their mean as the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import comfy.utils
from torch.optim.swa_utils import AveragedModel

from ..architecture import UNET_WEIGHTS
from .train_unet import new_unet, write_state


def main() -> None:
    """Read the arguments, average, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("unets", nargs="+", type=Path, help="weights of one run at several of its steps")
    options = parser.parse_args()
    unet = new_unet()
    mean = AveragedModel(unet)
    for path in options.unets:
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
        unet.load_state_dict({key: value.float() for key, value in state.items()})
        mean.update_parameters(unet)
    write_state(mean.module.state_dict())
    print(f"{UNET_WEIGHTS}: mean of {len(options.unets)} U-Nets")


if __name__ == "__main__":
    main()
