"""Stage 2: the attribute classifier, half on renders and half on what the autoencoder makes of them, degraded."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..captions import Person
from ..classifier import HEADS, WEIGHTS, AttributeClassifier
from .common import (
    PROFESSION_INDEX,
    autocast,
    cosine,
    held_out,
    image_batch,
    labels,
    load_checkpoint,
    save_checkpoint,
    seed_step,
    uniform_person,
)
from .latents import LatentCache
from .renders import Renders


def _degrade(images: torch.Tensor) -> torch.Tensor:
    """Blur, noise and tint, each image of the batch at its own strength."""
    batch = images.shape[0]
    small = F.interpolate(images, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, size=images.shape[-2:], mode="bilinear", antialias=False)
    images = torch.lerp(images, blurred, torch.rand(batch, 1, 1, 1))
    images = images + torch.randn_like(images) * torch.rand(batch, 1, 1, 1) * 0.06
    return (images * (1 + 0.08 * torch.randn(batch, 3, 1, 1)) + 0.03 * torch.randn(batch, 3, 1, 1)).clamp(0, 1)


def _decoded_batch(decoded: torch.Tensor, people: list[Person], rng: random.Random) -> torch.Tensor:
    """The same people through the autoencoder, mirrored half of the time, float32 in [0, 1]."""
    images = [decoded[p.style, PROFESSION_INDEX[p.profession], p.gender, p.skin_tone, int(p.weapon)] for p in people]
    return torch.stack([image.flip(-1) if rng.random() < 0.5 else image for image in images]).float() / 255


def _draw(rng: random.Random, size: int, test: bool):
    people = []
    while len(people) < size:
        person = uniform_person(rng)
        if held_out(person) == test:
            people.append(person)
    return people


def train(cache: Path, seed: int = 0, steps: int = 2000, batch_size: int = 64) -> dict[str, float]:
    """Train, write `classifier.safetensors`, and return the accuracy on renders that training never saw."""
    renders, decoded = Renders(cache), LatentCache(cache).decoded()
    torch.manual_seed(seed)
    model = AttributeClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    checkpoint, start = cache / "classifier.ckpt", 0
    if state := load_checkpoint(checkpoint):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    model.train()
    for step in range(start, steps):
        rng = seed_step(seed, step)
        people = _draw(rng, batch_size, test=False)
        half = batch_size // 2
        images = torch.cat([image_batch(renders, people[:half], rng), _decoded_batch(decoded, people[half:], rng)])
        images = _degrade(images)
        optimizer.param_groups[0]["lr"] = 2e-3 * cosine(step, steps)
        with autocast():
            logits = model(images)
        loss = sum(F.cross_entropy(logits[name].float(), target) for name, target in labels(people).items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print(f"classifier {step}/{steps} loss {loss.item():.4f}", flush=True)
        if step % 500 == 499:
            save_checkpoint(checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, WEIGHTS)
    return evaluate(renders, decoded, model.eval())


@torch.no_grad()
def evaluate(
    renders: Renders, decoded: torch.Tensor, model: AttributeClassifier, images: int = 4000
) -> dict[str, float]:
    """Accuracy on renders that training never saw: of everybody (new backgrounds, places and weapons), and of the
    combinations that were held out altogether, as they are and through the autoencoder."""
    rng = random.Random(12345)
    everybody = [uniform_person(rng) for _ in range(images)]
    strangers = _draw(rng, images, test=True)
    accuracy = {}
    for suffix, people, batch in (
        ("", everybody, lambda part: image_batch(renders, part, rng)),
        (" (unseen combination)", strangers, lambda part: image_batch(renders, part, rng)),
        (" (unseen combination, decoded)", strangers, lambda part: _decoded_batch(decoded, part, rng)),
    ):
        right = dict.fromkeys(HEADS, 0)
        for start in range(0, images, 100):
            part = people[start : start + 100]
            logits = model(batch(part))
            for name, target in labels(part).items():
                right[name] += (logits[name].argmax(1) == target).sum().item()
        accuracy |= {name + suffix: count / images for name, count in right.items()}
    return accuracy
