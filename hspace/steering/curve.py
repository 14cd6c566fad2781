"""A strength that changes over the window of steering."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..concepts import check_finite, quoted

SCHEDULES: dict[str, tuple[float, ...]] = {
    "constant": (),
    "fade out": (1.0, 0.0),
    "fade in": (0.0, 1.0),
    "middle": (0.0, 1.0, 0.0),
}
"""Curves by name: factors on the strength, evenly spaced from the start of the window to its end."""
POINTS = 1001
_INSIDE = 1e-6
"""At the very ends of the schedule `percent_to_sigma` gives infinity and 0 instead of the sigmas that are sampled."""


class Curve:
    """Factors on the strength over a window of one model's noise schedule, linear between them.

    Everything is tensor arithmetic, so that no step waits for the GPU.

    Args:
        factors: two or more, evenly spaced over the window as a share of the schedule (`percent`).
        window: (start, end) in percent.
        model_sampling: of the model that samples.
    """

    def __init__(self, factors: Sequence[float], window: tuple[float, float], model_sampling):
        percents = torch.linspace(*window, POINTS).clamp(_INSIDE, 1 - _INSIDE).tolist()
        sigmas = torch.tensor([float(model_sampling.percent_to_sigma(percent)) for percent in percents])
        self.factors = torch.tensor(factors, dtype=torch.float32)
        self.log_sigmas = sigmas.log().flip(0)  # ascending: from the end of the window to its start
        self.moved: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(self, sigma: torch.Tensor) -> torch.Tensor:
        """The factor, a float32 scalar, at a sigma of the window, a scalar on any device."""
        if sigma.device not in self.moved:
            self.moved[sigma.device] = self.log_sigmas.to(sigma.device), self.factors.to(sigma.device)
        table, factors = self.moved[sigma.device]
        value = sigma.float().clamp_min(1e-9).log()
        above = torch.searchsorted(table, value).clamp(1, POINTS - 1)
        low, high = table[above - 1], table[above]
        from_end = (above - 1 + (value - low) / (high - low).clamp_min(1e-12)).clamp(0, POINTS - 1)
        place = (1 - from_end / (POINTS - 1)) * (len(factors) - 1)
        left = place.floor().clamp(max=len(factors) - 2).long()
        return torch.lerp(factors[left], factors[left + 1], place - left)


def checked_curve(factors: Sequence[float]) -> tuple[float, ...]:
    """The factors of a `Curve`; empty for a constant strength.

    Raises:
        ValueError: something else than finite numbers.
    """
    try:
        values = torch.tensor([float(factor) for factor in factors], dtype=torch.float32)
    except (TypeError, ValueError):
        raise ValueError(f"curve: found {quoted(factors)}, which is no list of numbers.") from None
    check_finite("curve", values, "Give factors such as 1, 0.5, 0.")
    return tuple(values.tolist()) * (2 if len(values) == 1 else 1)
