"""What a probe found, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import torch

MOST_ROWS = 64


def probe_table(names: Sequence[str], scores: torch.Tensor) -> str:
    """The scores of each image and concept, tab-separated: a line of names, then mean and spread (standard deviation)
    over all images, then the first 64 images.

    Args:
        names: of K concepts.
        scores: float32 `[B, K]`.
    """
    spread = scores.std(0) if len(scores) > 1 else torch.zeros(scores.shape[1])
    rows = [("mean", scores.mean(0)), ("spread", spread), *((str(i), row) for i, row in enumerate(scores[:MOST_ROWS]))]
    lines = ["\t".join(["image", *(" ".join(name.split())[:80] for name in names)])]
    lines += ["\t".join([label, *(f"{value:+.2f}" for value in row.tolist())]) for label, row in rows]
    if len(scores) > MOST_ROWS:
        lines.append(f"... and {len(scores) - MOST_ROWS} images more")
    return "\n".join(lines)
