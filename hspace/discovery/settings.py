"""The settings of a discovery that a user chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..concepts import MAX_RANK

METHODS = ("distilled", "paper")
SITES = ("auto", "bottleneck", "decoder")
OWN_SITES = {"distilled": "decoder", "paper": "bottleneck"}
"""What "auto" stands for, by method."""
AMOUNTS = {"distilled": {"steps": 125, "sample_count": 112}, "paper": {"steps": 2500, "sample_count": 1000}}
"""What 0 stands for, by method; the paper's are those of the authors' code: 20 epochs of 1000 images, 8 at a time."""
PUBLISHED_RATE = 0.1
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""At which `measure_range` looks."""


@dataclass(frozen=True)
class DiscoverySettings:
    """Raises ValueError naming the setting that is out of range.

    Attributes:
        name: of the concept.
        method: one of `METHODS`, the names of the recipes.
        steps: optimiser steps; 0 for the method's own number (`AMOUNTS`).
        batch_size: images a step.
        learning_rate: `distilled`: step of Adam as a share of the RMS of h, decaying by a cosine. `paper`: absolute
            and constant, as published.
        guidance: teacher guidance g; `paper` has no teacher.
        sample_count: images to sample, where none are given; 0 for the method's own number.
        width, height: of those images, in pixels; 0 for the model's native size.
        seed: of every random number.
        calibrate: scale a finished `distilled` vector by its reach (`objective.relative_reach`), so that at strength 1
            it goes as far as the concept prompt itself, and, where it has responses, no further than images bear
            (`sound_length`). Fitted to a guided teacher, vectors of concepts that are easy to explain overshoot, and
            those of others fall short.
        measure_range: measure the strengths between which the finished vector works (`strength_range`).
        gradient_checkpointing: compute the decoder's activations again in the backward pass instead of keeping them.
        sites: "bottleneck": a map of h, as published. "decoder": one value a channel at the entrance of each decoder
            block, the bottleneck included, learnt together. "auto": the method's own (`OWN_SITES`).
        response_rank: `distilled`: rank of what is learnt beside each constant, a linear map of h (`Response`), so that
            what is added depends on the image; 0 for constants alone. `paper` has none, whatever this says.
        spatial_mean: learn a map, then keep its mean, one value a channel; the last steps already learn with it.
    """

    name: str
    method: str = "distilled"
    steps: int = 0
    batch_size: int = 8
    learning_rate: float = 0.1
    guidance: float = 3.0
    sample_count: int = 0
    width: int = 0
    height: int = 0
    seed: int = 0
    calibrate: bool = True
    measure_range: bool = False
    gradient_checkpointing: bool = False
    spatial_mean: bool = False
    sites: str = "auto"
    response_rank: int = 16

    def __post_init__(self):
        check_name(self.name)
        if self.method not in METHODS:
            raise ValueError(f"method: '{self.method}' is not one of {', '.join(METHODS)}.")
        if self.sites not in SITES:
            raise ValueError(f"sites: '{self.sites}' is not one of {', '.join(SITES)}.")
        if self.sites == "auto":
            object.__setattr__(self, "sites", OWN_SITES[self.method])
        for key, amount in AMOUNTS[self.method].items():
            if getattr(self, key) == 0:
                object.__setattr__(self, key, amount)
        for key in ("steps", "batch_size", "sample_count"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} is too small; 1 is the least.")
        if not 0 <= self.response_rank <= MAX_RANK:
            raise ValueError(f"response_rank: {self.response_rank} is not from 0 to {MAX_RANK}.")
        for key in ("learning_rate", "guidance"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) > 0):
                raise ValueError(f"{key}: {getattr(self, key)} must be a positive number.")

    @property
    def judgements(self) -> int:
        """How many times, at most, the learnt vector is judged by eight images (`ImageJudge`)."""
        length = 3 if self.method == "distilled" and self.calibrate and self.response_rank else 0
        strengths = 2 + len(STRENGTHS) if self.measure_range else 0
        return length + strengths - bool(length and strengths)  # the images without the vector serve both


def check_name(name: str) -> None:
    """Raise ValueError where a concept's name is blank."""
    if not name.strip():
        raise ValueError("name: the concept needs a name, e.g. 'woman'.")
