"""Tell the three drawing styles of the demo model apart, which its classifier has no output for."""

from __future__ import annotations

import torch

from ..demo.captions import PROFESSIONS, STYLES, caption
from .common import Bench

RIDGE = 1.0


class StyleJudge:
    """Ridge regression on what the classifier's trunk sees of images drawn with the style in the prompt.

    `accuracy` is on every second profession, those that it was not fitted to.
    """

    def __init__(self, bench: Bench):
        self.trunk = bench.judge.trunk
        professions, styles = list(PROFESSIONS), range(len(STYLES))
        subjects = [(p, style) for p in professions for style in styles]
        images = bench.draw([caption(p, style=s) for p, s in subjects], list(range(len(subjects))))
        targets = torch.tensor([s for _, s in subjects])
        fitted = torch.tensor([professions.index(p) % 2 == 0 for p, _ in subjects])
        features = self._features(images)
        x, y = features[fitted], torch.nn.functional.one_hot(targets[fitted]).double()
        self.weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
        self.accuracy = (self(images)[~fitted] == targets[~fitted]).double().mean().item()

    @torch.no_grad()
    def _features(self, images: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([self.trunk(part.movedim(-1, 1).float() - 0.5) for part in images.split(64)])
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3)), torch.ones(len(seen), 1)], dim=1)
        return pooled.double()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Index into `STYLES` of each IMAGE `[B, 128, 128, 3]`, int64 `[B]`."""
        return (self._features(images) @ self.weights).argmax(1)
