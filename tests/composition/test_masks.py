"""Masks of Apply: any size, one or a batch, with windows, and placed rightly on the crops of area conditionings."""

import pytest
import torch
import torch.nn.functional as F

import nodes
from composition.builders import build, calls, chunks, conditioning, sample, steered_by_hand, vector_for
from hspace.steering import apply_steering

STRENGTH = 3.0


@pytest.fixture(scope="module")
def model():
    return build("small")


def random_mask(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(8))


# name: (mask, images)
MASKS = {
    "image size": (random_mask(1, 128, 128), 1),
    "latent size": (random_mask(1, 16, 16), 2),
    "h size": (random_mask(1, 4, 4), 2),
    "smaller than h": (random_mask(1, 2, 3), 1),
    "any size": (random_mask(1, 100, 37), 2),
    "without batch axis": (random_mask(64, 64), 2),
    "one for each image": (random_mask(3, 64, 64), 3),
    "fewer than images": (random_mask(2, 64, 64), 5),
    "more than images": (random_mask(4, 64, 64), 2),
    "all black": (torch.zeros(1, 64, 64), 1),
}


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.3, 0.8)], ids=["always", "window"])
@pytest.mark.parametrize("name", MASKS)
def test_masks(model, name, window):
    mask, images = MASKS[name]
    v = vector_for(model)
    rows = mask.reshape(-1, 1, *mask.shape[-2:])
    rows = torch.cat([rows[i % len(rows)][None] for i in range(images)])  # a short batch starts again
    if name == "fewer than images":
        rows = torch.cat([rows[:2], rows[:2], rows[:1]])
    delta = v.tensor * F.interpolate(rows, (4, 4), mode="area")
    sampling = model.get_model_object("model_sampling")
    sigmas = [sampling.percent_to_sigma(percent) for percent in window]
    options = {"batch": images, "steps": 4}
    with steered_by_hand(model, delta, STRENGTH, window=sigmas) as reference:
        wanted = sample(reference, **options)
    found = sample(apply_steering(model, v, STRENGTH, *window, mask=mask), **options)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert torch.equal(found, sample(model, **options)) == (name == "all black")


# name: (area of the prompt in latent pixels: height, width, y, x)
AREAS = {
    "right half": (16, 8, 0, 8),
    "lower left": (8, 12, 8, 0),
    "inside": (8, 8, 4, 4),
    "beyond the border": (16, 16, 0, 8),
}


@pytest.mark.parametrize("name", AREAS)
def test_mask_on_the_crop_of_an_area(model, name):
    """An area conditioning shows the U-Net a crop; the mask is cropped with it, not squeezed into it."""
    height, width, y, x = AREAS[name]
    mask = random_mask(1, 128, 128)
    (positive,) = nodes.ConditioningSetArea().append(conditioning(model, 1), width * 8, height * 8, x * 8, y * 8, 1.0)
    options = {"positive": positive + conditioning(model, 3), "steps": 1}
    v = vector_for(model)
    steered = apply_steering(model, v, STRENGTH, mask=mask)
    seen = set()
    for plain, changed in zip(calls(model, **options), calls(steered, **options), strict=True):
        for (index, before), (_, after) in zip(chunks(plain), chunks(changed), strict=True):
            cropped = before.shape[2:] != (4, 4)
            part = mask[None, :, y * 8 : (y + height) * 8, x * 8 : (x + width) * 8] if cropped else mask[None]
            size = tuple(before.shape[2:])
            delta = F.interpolate(v.tensor[None], size, mode="bilinear") * F.interpolate(part, size, mode="area")
            wanted = before + STRENGTH * delta if index == 0 else before
            torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-5)
            seen.add((index, cropped))
    assert seen == {(0, True), (0, False), (1, True), (1, False)}


def test_tiles_are_warned_about(model, caplog):
    """A node that shows the model tiles of the image says nothing of where they are."""

    def tiled(apply_model, options):
        x = options["input"]
        return torch.cat([apply_model(half, options["timestep"], **options["c"]) for half in x.chunk(2, dim=3)], dim=3)

    for mask in (None, random_mask(1, 64, 64)):
        steered = apply_steering(model, vector_for(model), STRENGTH, mask=mask)
        steered.set_model_unet_function_wrapper(tiled)
        sample(steered)
        warned = [
            record.getMessage() for record in caplog.records if "mask: the model is called on" in record.getMessage()
        ]
        assert len(warned) == (0 if mask is None else 1)
