"""What probes found, kept by the latents that came of the same run.

A node before the sampler cannot give out what the sampler finds, and ComfyUI may run the sampler many times with one
result of that node, or not at all where it kept the latents. So readings are kept in this process, by the content of
the probe and of the sampled latents: whoever holds both finds the reading of exactly that run.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import torch

MOST_READINGS = 256
"""Runs that are kept, the newest; each takes a few kilobytes."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Of LATENTs, whose precision depends on ComfyUI's settings."""


@dataclass(frozen=True)
class Reading:
    """What a probe found in one sampling run of B images, in units of strength.

    Attributes:
        names: of K concepts.
        sigmas: float32 `[S]`, noise levels that were probed, in the order of sampling.
        steps: float32 `[S, B, K]`: at each level how far the model's own prediction lies along a concept.
        scores: float32 `[B, K]`: the strength at which steering by a concept comes nearest to an image, median of
            the steps.
        problem: why there are no figures, as a sentence; empty otherwise.
    """

    names: tuple[str, ...]
    sigmas: torch.Tensor
    steps: torch.Tensor
    scores: torch.Tensor
    problem: str = ""


_readings: OrderedDict[tuple[str, str], Reading] = OrderedDict()
_lock = Lock()


def remember(content: str, latents: torch.Tensor, reading: Reading) -> None:
    """Keep a reading.

    Args:
        content: digest of the probe.
        latents: `[B, ...]` as the sampler returns them.
    """
    with _lock:
        for dtype in _DTYPES:
            key = content, _fingerprint(latents.to(dtype))
            _readings[key] = reading
            _readings.move_to_end(key)
        while len(_readings) > MOST_READINGS * len(_DTYPES):
            _readings.popitem(last=False)


def find_reading(content: str, latents: torch.Tensor) -> Reading:
    """The reading of the run that made these latents.

    Args:
        content: digest of the probe.
        latents: `[B, ...]`, a LATENT's samples.

    Raises:
        ValueError: there is none, or it has no figures.
    """
    with _lock:
        reading = _readings.get((content, _fingerprint(latents)))
    if reading is None:
        raise ValueError(
            f"latent: no probed run made these {len(latents)} images of {list(latents.shape[1:])}. Connect the output "
            "'latent' of a sampler whose model comes from this Probe Concepts, with no node between them. If it is "
            "connected so, ComfyUI kept the images of an earlier session: change the seed and run again."
        )
    if reading.problem:
        raise ValueError(reading.problem)
    return reading


def _fingerprint(latents: torch.Tensor) -> str:
    values = latents.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype}|{list(values.shape)}|".encode())
    digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
