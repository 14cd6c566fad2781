"""Charts as IMAGE tensors `[1, H, W, 3]`, float32 in [0, 1]."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .balance import Balance
    from .inspection import Comparison, Inspection

DARK, LIGHT, ACCENT = "#1f4e79", "#9ab8d8", "#c0504d"
MAX_BARS = 12
PANEL_WIDTH = 341
BAND = (0.1, 0.9)
"""Quantiles over the images that the band of a line lies between."""


def loss_plot(losses: list[float], title: str, size: tuple[int, int] = (768, 512)) -> torch.Tensor:
    """Loss over steps with axes, raw and smoothed (mean of a twentieth of the run)."""
    figure = _figure(size)
    axes = figure.add_subplot()
    steps = np.arange(1, len(losses) + 1)
    window = max(1, len(losses) // 20)
    smooth = np.convolve(np.pad(losses, (window - 1, 0), mode="edge"), np.ones(window) / window, mode="valid")
    axes.plot(steps, losses, color=LIGHT, linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color=DARK, linewidth=2, label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss", title=_plain(f"Discovery of '{title}'"))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return _image(figure)


def balance_chart(balance: Balance, size: tuple[int, int] = (768, 512)) -> torch.Tensor:
    """Share of each label as a bar with its count, and a line at the even share; 12 labels at most."""
    judged, number = sum(balance.counts), len(balance.labels)
    shown = range(number)
    if number > MAX_BARS:
        shown = sorted(sorted(shown, key=lambda index: -balance.counts[index])[:MAX_BARS])
    shares = [balance.counts[index] / judged for index in shown]
    figure = _figure(size)
    axes = figure.add_subplot()
    bars = axes.barh(range(len(shares)), shares, color=LIGHT, edgecolor=DARK)
    texts = [f"{balance.counts[index]} ({share:.0%})" for index, share in zip(shown, shares, strict=True)]
    axes.bar_label(bars, texts, padding=4, fontsize=11)
    axes.axvline(1 / number, color=ACCENT, linestyle="--", label=f"even: {1 / number:.0%}")
    names = [_plain(_wrap(balance.labels[index], 26, 3 if len(shares) < 6 else 1)) for index in shown]
    axes.set_yticks(range(len(shares)), names, fontsize=11)
    axes.invert_yaxis()  # the first label on top, as in the list
    axes.set_xlim(0, 1.18)  # room for the count beside a full bar
    axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    axes.set_xlabel(_balance_caption(balance, len(shares)))
    axes.set_title(f"Deviation {balance.deviation:.2f}  (0: even, 1: one label only)", fontsize=14)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    if balance.warning:
        figure.supxlabel(textwrap.fill(balance.warning, 100), fontsize=10, color=ACCENT)
    return _image(figure)


def inspection_picture(inspection: Inspection, comparison: Comparison | None = None) -> torch.Tensor:
    """Energy over h-space, power spectrum and channel norms, each explained beneath; 1024 x 512.

    With a comparison, its second vector is shown beside the first, and a fourth panel shows where the two agree; 1364 x
    512.
    """
    panels = 3 if comparison is None else 4
    figure = _figure((PANEL_WIDTH * panels + (1 if panels == 3 else 0), 512))
    axes = figure.subplots(1, panels)
    vectors = [(inspection, DARK)] if comparison is None else [(comparison.first, DARK), (comparison.second, ACCENT)]
    _draw_energy(axes[0], inspection)
    _draw_spectrum(axes[1], vectors)
    _draw_channels(axes[2], vectors)
    if comparison is not None:
        _draw_agreement(axes[3], comparison)
    title = _wrap(inspection.name, 60, 1)
    if comparison is not None:
        title += f"  vs  {_wrap(comparison.second.name, 60, 1)}  (cosine {comparison.cosine:.2f})"
    figure.suptitle(_plain(title), fontsize=13)
    return _image(figure)


def probe_chart(names: Sequence[str], steps: torch.Tensor, size: tuple[int, int] = (768, 512)) -> torch.Tensor:
    """A line for each concept over the steps of sampling, the mean over the images, in a band of their middle 80 %.

    Args:
        names: of K concepts.
        steps: float32 `[S, B, K]`, in units of strength.
        size: in pixels.

    Returns:
        IMAGE `[1, H, W, 3]`.
    """
    figure = _figure(size)
    axes = figure.add_subplot()
    numbers = range(1, len(steps) + 1)
    low, high = torch.quantile(steps, torch.tensor(BAND), dim=1)
    for index, name in enumerate(names):
        (line,) = axes.plot(numbers, steps[..., index].mean(1), "o-", markersize=3, label=_plain(_wrap(name, 40, 1)))
        axes.fill_between(numbers, low[:, index], high[:, index], color=line.get_color(), alpha=0.2, linewidth=0)
    axes.axhline(0, color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="probed call of the model, from noise to image", ylabel="in units of strength")
    images = steps.shape[1]
    axes.set_title(
        "Where the model's own prediction lies" + (f" (band: 80 % of {images} images)" if images > 1 else "")
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return _image(figure)


def _draw_energy(axes, inspection: Inspection) -> None:
    mesh = axes.imshow(inspection.energy_map.numpy(), cmap="viridis", vmin=0)
    axes.figure.colorbar(mesh, ax=axes, shrink=0.8)
    axes.set_title("Where it acts")
    if inspection.has_map:
        what = "Brighter: the vector changes this part of the image more."
    else:
        axes.set(xticks=[], yticks=[])
        what = "No spatial map: every part of the image is changed alike."
    _caption(axes, "h-space pixels", f"{what} Sum of squares over all channels.")


def _draw_spectrum(axes, vectors) -> None:
    axes.set_title("How coarse it is")
    mapped = [(vector, colour) for vector, colour in vectors if vector.has_map]
    for vector, colour in mapped:
        frequencies, power = vector.spectrum
        axes.plot(frequencies, power.clamp_min(1e-4), "o-", markersize=3, color=colour, label=_legend(vector))
    if mapped:
        axes.axhline(1, color="grey", linestyle="--", label="white noise")
        axes.set_yscale("log")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    else:
        axes.text(0.5, 0.5, "no spatial map,\nso no spectrum", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    _caption(
        axes,
        "cycles per pixel (0: the mean)",
        "Power of broad (left) to fine (right) patterns. Flat like the dashed "
        "line: noise. High at the left: a broad, steady effect.",
    )


def _draw_channels(axes, vectors) -> None:
    for vector, colour in vectors:
        norms = vector.channel_norms.sort(descending=True).values
        axes.plot(range(1, len(norms) + 1), norms, color=colour, linewidth=2, label=_legend(vector))
    axes.set_title("How many channels")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(vectors) > 1:
        axes.legend(fontsize=8)
    _caption(
        axes,
        "channels, largest first",
        "Norm of each channel. Steep at the left: a few channels carry it. Level: it is spread over all.",
    )


def _draw_agreement(axes, comparison: Comparison) -> None:
    mesh = axes.imshow(comparison.cosine_map.numpy(), cmap="RdBu", vmin=-1, vmax=1)
    axes.figure.colorbar(mesh, ax=axes, shrink=0.8)
    axes.set_title("Where the two agree")
    _caption(
        axes,
        "h-space pixels",
        "Cosine at each pixel. Blue: they push the same way, red: against each other, white: unrelated.",
    )


def _balance_caption(balance: Balance, bars: int) -> str:
    judged, total, number = sum(balance.counts), len(balance.cosines), len(balance.labels)
    caption = f"share of the {judged} judged images"
    if judged < total:
        caption += f" ({total - judged} of {total} could not be judged)"
    if bars < number:
        caption += f"; {bars} most frequent of {number} labels"
    return caption


def _caption(axes, label: str, text: str) -> None:
    axes.set_xlabel(f"{label}\n\n{textwrap.fill(text, 40)}", fontsize=9)


def _legend(vector: Inspection) -> str:
    return _plain(_wrap(vector.name, 20, 1))


def _wrap(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def _plain(text: str) -> str:
    """Names come from people and files: no dollar sign in them starts a formula."""
    return text.replace("$", r"\$")


def _figure(size: tuple[int, int]):
    """A matplotlib figure of that many pixels, drawn by Agg and known to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image(figure) -> torch.Tensor:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(np.float32) / 255
    return torch.from_numpy(pixels.copy())[None]
