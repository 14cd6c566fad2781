"""The check that every number from outside passes: not a number and infinity are refused by the name of their input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def check_finite(name: str, value: Any, cure: str = "Look at the node that it comes from.") -> None:
    """Raise ValueError where a number, or a number in a tensor, list or dictionary, is not finite.

    Args:
        name: of the input, for the error.
        value: anything; what holds no numbers passes.
        cure: what to do where values of a tensor are not finite.
    """
    if isinstance(value, torch.Tensor):
        broken = 0 if value.is_meta else value.numel() - int(torch.isfinite(value).sum())
        if broken:
            raise ValueError(f"{name}: {broken} of its {value.numel()} values are not finite (nan or infinity). {cure}")
    elif isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError(
                f"{name}: found {value}, which is no number to compute with. Give a finite number; if it is linked, "
                "look at the node that it comes from."
            )
    elif isinstance(value, Mapping):
        for item in value.values():
            check_finite(name, item, cure)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_finite(name, item, cure)
