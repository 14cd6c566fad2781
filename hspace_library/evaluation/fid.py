"""FID: how far images of a method are from unsteered ones, by features of a network whose file the user has."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import nn


def check_fid(file: str) -> None:
    """Raise ValueError where FID was asked for and cannot be had."""
    if not file:
        return
    try:
        import torchmetrics.image.fid  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "--fid-weights: torchmetrics is not installed: `pip install .[fid]` in a clone of the pack."
        ) from error
    if not Path(file).is_file():
        raise ValueError(f"--fid-weights {file}: there is no such file; docs/library.md says which one is meant.")


@lru_cache(maxsize=1)
def _network(file: str) -> nn.Module:
    try:
        return torch.jit.load(file, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"--fid-weights {file}: not a TorchScript file, as inception-2015-12-05.pt is.") from error


@torch.no_grad()
def features_of(file: str, images: torch.Tensor) -> torch.Tensor:
    """float32 `[B, D]` of images `[B, H, W, 3]` in [0, 1]; the network resizes them itself."""
    pixels = (images.movedim(-1, 1).clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.cat([_network(file)(part, return_features=True) for part in pixels.split(16)]).float().cpu()


class _AsTheyAre(nn.Module):
    """A network for torchmetrics that is given features instead of images."""

    num_features = 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(features: torch.Tensor, reference: torch.Tensor) -> float:
    """FID of features `[N, D]` against a reference `[M, D]`; N and M at least 2."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = _AsTheyAre()
    network.num_features = features.shape[1]
    metric = FrechetInceptionDistance(feature=network, normalize=False)
    metric.update(reference, real=True)
    metric.update(features, real=False)
    return float(metric.compute())
