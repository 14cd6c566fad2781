"""What a discovery begins with: the size of its images, its first vector, and a note to the user."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from ..bottleneck import Bottleneck
from ..concepts import Response, UnfinishedVector, Vector
from .prompt_pairs import PromptPairs
from .recipe import Recipe
from .settings import PUBLISHED_RATE, DiscoverySettings
from .streams import Stream, generator


def beginning_note(
    bottleneck: Bottleneck,
    pairs: PromptPairs,
    settings: DiscoverySettings,
    samples: list[torch.Tensor] | None,
    start: Vector,
) -> str:
    """What a user may expect otherwise: where a run leaves the published protocol, which empty prompt it takes, and
    where `start` has other responses than were asked for.
    """
    lines = []
    ranks = {response.rank for response in start.responses.values()} or {0}
    if settings.method == "distilled" and ranks != {settings.response_rank}:
        lines.append(f"response_rank: start_from goes on with the rank that it has, {max(ranks)}.")
    if settings.method == "paper":
        images = "the connected samples" if samples is not None else f"{settings.sample_count} images"
        lines.append(
            f"paper: {images}, {settings.steps} steps of {settings.batch_size}; published: 1000 images of one pair, "
            "2500 steps of 8."
        )
        published = {"sites": "bottleneck", "spatial_mean": False, "learning_rate": PUBLISHED_RATE}
        other = [name for name, value in published.items() if getattr(settings, name) != value]
        if other:
            lines.append(f"{', '.join(other)}: not as published.")
    if pairs.empty is None and not bottleneck.trained_with_zeros:
        lines.append(
            "empty: nothing is connected, so zeros stand for the empty prompt; this model was trained with an encoded "
            "one. Connect a CLIP Text Encode without text."
        )
    return " ".join(lines)


def start_vector(
    bottleneck: Bottleneck, settings: DiscoverySettings, recipe: Recipe, shape: tuple[int, int, int]
) -> Vector:
    """What a discovery starts from: a map in the bottleneck, or one value a channel at each decoder block."""
    if settings.sites == "bottleneck":
        shapes = [(bottleneck.channels, *bottleneck.map_size(*shape[1:]))]
    else:
        shapes = [(channels, 1, 1) for channels, _ in bottleneck.decoder]
    random = generator(settings.seed, Stream.START)
    tensors = {site: recipe.start * (2 * torch.rand(s, generator=random) - 1) for site, s in enumerate(shapes)}
    return Vector(tensors.pop(0), settings.name, bottleneck.family, decoder=tensors)


def with_responses(vector: Vector, settings: DiscoverySettings) -> Vector:
    """The vector with responses of the wanted rank that add nothing yet, where it has none and may get some.

    An unfinished vector goes on as it began, and `paper` knows of constants only.

    Raises:
        ValueError: the vector has responses, and the method is `paper`.
    """
    if settings.method == "paper":
        if vector.responses:
            raise ValueError(
                f"start_from: what '{vector.name}' adds depends on the image, which the published method does not know "
                "of. Choose the method distilled, or start from another vector."
            )
        return vector
    if vector.responses or isinstance(vector, UnfinishedVector) or not settings.response_rank:
        return vector
    responses = {}
    for site, tensor in vector.tensors.items():
        shape = settings.response_rank, len(tensor)
        down = torch.randn(shape, generator=generator(settings.seed, Stream.RESPONSE_START, site)) / shape[1] ** 0.5
        responses[site] = Response(torch.zeros(shape[::-1]), down)
    return replace(vector, responses=responses)


def latent_shape(
    model, bottleneck: Bottleneck, settings: DiscoverySettings, samples: list[torch.Tensor] | None
) -> tuple[int, int, int]:
    """`[C, h, w]` of the images that a discovery runs on: the size that most samples have, or that of the settings."""
    channels = model.get_model_object("latent_format").latent_channels
    if samples is None:
        sides = {"height": settings.height, "width": settings.width}
        height, width = (_latent_side(name, pixels, bottleneck) for name, pixels in sides.items())
        return channels, height, width
    if not sum(len(batch) for batch in samples):
        raise ValueError("samples: there is no image in them; connect some, or nothing.")
    sizes = Counter()
    for batch in samples:
        if batch.ndim != 4 or batch.shape[1] != channels:
            raise ValueError(
                f"samples: latents of shape {list(batch.shape)} do not fit a model with {channels} latent channels; "
                "encode the images with this model's VAE."
            )
        for image in batch:
            place = sum(sizes.values()) + 1
            if not torch.isfinite(image).all():
                raise ValueError(f"samples: image {place} holds values that are not numbers; look at it decoded.")
            sizes[tuple(batch.shape[1:])] += 1
    return sizes.most_common(1)[0][0]


def _latent_side(name: str, pixels: int, bottleneck: Bottleneck) -> int:
    pixels = pixels or bottleneck.native_size
    if not pixels:
        raise ValueError(f"{name}: 0, but the native size of {bottleneck.family} is not known; enter it.")
    if pixels < 64 or pixels % 8:
        raise ValueError(f"{name}: {pixels} must be a multiple of 8, 64 at least, or 0 for the native size.")
    return pixels // 8
