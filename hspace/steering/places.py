"""The place of each sampled image in the batch that it is from, where a part of that batch is sampled at a time."""

from __future__ import annotations

import torch

MOST_PLACES = 128


def find_places(noise: torch.Tensor, seed: int | None) -> tuple[int, ...] | None:
    """Where the images of a run stand in their batch; None where they are a whole batch, or it cannot be told.

    Rebatch Latents and Latent From Batch keep for each image the number of its noise among the draws of the seed. It
    does not reach the model; the noise itself does, and the draws can be made again. Images that share their noise
    (Latent Batch Seed Behavior), have none, or have noise of another source stand as they are.

    Args:
        noise: `[B, ...]` as the sampler gets it.
        seed: of the noise.
    """
    if seed is None or noise.dtype != torch.float32:
        return None
    rows = noise.detach().cpu()
    places: dict[int, int] = {}
    generator = torch.Generator().manual_seed(seed)
    for place in range(max(MOST_PLACES, len(rows))):
        drawn = torch.randn([1, *rows.shape[1:]], generator=generator)
        for row in (rows[:, :1].flatten(1)[:, 0] == drawn.flatten()[0]).nonzero().flatten().tolist():
            if torch.equal(rows[row], drawn[0]):
                if place in places.values():
                    return None
                places[row] = place
        if len(places) == len(rows):
            found = tuple(places[row] for row in range(len(rows)))
            return None if found == tuple(range(len(rows))) else found
    return None
