"""Which rows of a model call belong to which chunk of conditioning, and to which image.

ComfyUI stacks a batch chunk by chunk, and in each the images in their order. Nodes that show the model tiles of the
image stack several tiles in one call, and say nothing of it: there, all chunks follow one another once for each tile.
What is not as ComfyUI stacks it is read off the prompt embeddings, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rows:
    """The order of the rows of a call.

    Attributes:
        block: rows of one chunk that follow one another.
        repeats: how many times all chunks follow one another.
        images: true where the rows of a block are the images of the call in their order.
    """

    block: int
    repeats: int
    images: bool


def find_rows(count: int, chunks: int, images: int, embeddings: torch.Tensor | None) -> Rows | None:
    """The order of `count` rows; None where it cannot be told.

    Args:
        chunks: number of conditionings in the call.
        images: in the batch that is sampled, or in the context window that the call is for.
        embeddings: `[count, tokens, width]`, what each row attends to.
    """
    if count == chunks * images:
        return Rows(images, 1, True)
    if chunks == 1:
        return Rows(count, 1, False)
    if count % chunks or embeddings is None or embeddings.shape[0] != count:
        return None
    prompts = _numbered(embeddings.flatten(1), chunks)
    blocks = {block for block in (count // chunks, images, 1) if count % (chunks * block) == 0}
    fitting = [block for block in blocks if prompts is not None and _fits(prompts, block, chunks)]
    if prompts is None and images in blocks:  # prompts differ between images too
        tiles = embeddings.reshape(-1, chunks * images, *embeddings.shape[1:])
        fitting = [images] if len(tiles) > 1 and bool((tiles == tiles[:1]).all()) else []
    if len(fitting) != 1:
        return None
    return Rows(fitting[0], count // (chunks * fitting[0]), fitting[0] == images)


def _numbered(embeddings: torch.Tensor, most: int) -> list[int] | None:
    """The rows' prompts as numbers, equal ones alike; None where there are more than `most`."""
    numbers = [-1] * len(embeddings)
    for number in range(most):
        if -1 not in numbers:
            break
        alike = (embeddings == embeddings[numbers.index(-1)]).all(1).tolist()
        numbers = [number if same else known for same, known in zip(alike, numbers, strict=True)]
    return None if -1 in numbers else numbers


def _fits(prompts: Sequence[int], block: int, chunks: int) -> bool:
    """True where rows have one prompt if, and only if, they are of one chunk."""
    pairs = {(row // block % chunks, prompt) for row, prompt in enumerate(prompts)}
    return len(pairs) == chunks == len(set(prompts))
