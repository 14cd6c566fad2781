"""A mean that a stopped discovery goes on with."""

from __future__ import annotations

import torch


class RunningMean:
    """The mean of all values that were added.

    Args:
        state: `[2]`, of `state()`; None for a mean of nothing yet.
        signed: whether values may be negative.

    Raises:
        ValueError: the state is not one of such a mean.
    """

    def __init__(self, state: torch.Tensor | None = None, *, signed: bool = True):
        self.total, self.count = 0.0, 0.0
        if state is None:
            return
        fits = state.shape == (2,) and state.isfinite().all() and state[1] >= 0 and (signed or state[0] >= 0)
        if not fits:
            raise ValueError(f"{state.tolist()} is no sum and count.")
        self.total, self.count = state.double().tolist()

    def add(self, values: torch.Tensor) -> None:
        """Take in values of any shape."""
        self.total += values.sum().item()
        self.count += values.numel()

    @property
    def value(self) -> float | None:
        """The mean; None where there was nothing."""
        return self.total / self.count if self.count else None

    def state(self) -> torch.Tensor:
        """Sum and count, float64 `[2]`."""
        return torch.tensor([self.total, self.count], dtype=torch.float64)
