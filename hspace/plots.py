"""What people would rather look at than read, as IMAGE tensors `[B, H, W, 3]` in [0, 1]."""

from __future__ import annotations

import numpy as np
import torch


def loss_plot(losses: list[float], title: str, size: tuple[int, int] = (768, 512)) -> torch.Tensor:
    """Loss over steps with axes, raw and smoothed (mean of a twentieth of the run)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 20)
    smooth = np.convolve(np.pad(losses, (window - 1, 0), mode="edge"), np.ones(window) / window, mode="valid")
    axes.plot(steps, losses, color="#9ab8d8", linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color="#1f4e79", linewidth=2, label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss", title=f"Discovery of '{title}'")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255
    return torch.from_numpy(pixels.copy())[None]
