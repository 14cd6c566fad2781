"""Tell the three drawing styles of the demo model apart, which its classifier has no output for."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from demo.captions import PROFESSIONS, STYLES, caption

from .common import Bench, rate

RIDGE = 30.0
DEPTHS = (6, 12, 18)
"""Layers of the classifier's trunk after which it is read: a style is in edges and shading, which later ones forget."""


class StyleJudge:
    """Ridge regression on the activations of the classifier's trunk for images with the style in the prompt.

    `agreement` is the share of images of every second profession, which it was not fitted to, that it takes for the
    style in their prompt. The model does not always obey, so its errors and the judge's are both in it.
    """

    def __init__(self, bench: Bench):
        self.trunk = bench.judge.trunk
        professions = list(PROFESSIONS)
        subjects = [(p, style) for p in professions for style in range(len(STYLES))] * 2
        images = bench.sample([caption(p, style=s) for p, s in subjects], list(range(len(subjects))))
        targets = torch.tensor([s for _, s in subjects])
        fitted = torch.tensor([professions.index(p) % 2 == 0 for p, _ in subjects])
        features = self._features(images)
        self.mean, self.deviation = features[fitted].mean(0), features[fitted].std(0) + 1e-6
        x, y = self._standardised(features[fitted]), F.one_hot(targets[fitted]).double()
        self.weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
        self.agreement = rate(self(images)[~fitted] == targets[~fitted])
        share = f"{100 * self.agreement:.0f} %"
        print(f"style judge: {share} of unseen professions in the style of their prompt", flush=True)

    def _standardised(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([(features - self.mean) / self.deviation, torch.ones(len(features), 1)], dim=1)

    @torch.no_grad()
    def _features(self, images: torch.Tensor) -> torch.Tensor:
        rows = []
        for part in images.split(64):
            activations, pooled = part.movedim(-1, 1).float() - 0.5, []
            for depth, layer in enumerate(self.trunk[: max(DEPTHS)], start=1):
                activations = layer(activations)
                if depth in DEPTHS:
                    pooled += [activations.mean((2, 3)), activations.std((2, 3)), activations.amax((2, 3))]
            rows.append(torch.cat(pooled, dim=1))
        return torch.cat(rows).double()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Index into `STYLES` of each IMAGE `[B, 128, 128, 3]`, int64 `[B]`."""
        return (self._standardised(self._features(images)) @ self.weights).argmax(1)
