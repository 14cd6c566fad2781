"""Measure the demo model with its classifier: the figures of the model card.

With the renders in the cache also the pictures themselves: how near samples are to them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ..captions import ARMED, PROFESSIONS, caption, majority_gender
from ..classifier import AttributeClassifier, load_classifier
from ..generate import decode, encode, sample_and_judge, sample_images, sample_latents
from ..loader import fast_dtype, load_sampling_model, load_vae
from .common import PROFESSION_INDEX, image_batch, random_people
from .renders import Renders
from .train_decoder import weights_before

RESULTS = Path(__file__).parent.parent / "weights" / "evaluation.json"
DISTANCE = "Frechet distance of 2,000 samples to 2,000 renders"


def main(images: int = 512, cache: Path | None = None) -> dict[str, float]:
    """Draw, judge, print and write `evaluation.json`."""
    model = load_sampling_model()
    judge = load_classifier()
    rng = random.Random(2024)
    names = list(PROFESSIONS)
    harmless = [name for name in names if name not in ARMED]

    people = [(names[i % len(names)], rng.randrange(2), rng.randrange(5), rng.randrange(3)) for i in range(images)]
    prompts = [caption(p, gender=g, skin_tone=t, style=s) for p, g, t, s in people]
    full = sample_and_judge(judge, *model, prompts, list(range(images)))
    is_harmless = torch.tensor([p not in ARMED for p, *_ in people])
    figures = {
        "full caption: gender": _share(full.gender, [g for _, g, _, _ in people]),
        "full caption: skin tone": _share(full.skin_tone, [t for _, _, t, _ in people]),
        "full caption: profession": _share(full.profession, [PROFESSION_INDEX[p] for p, *_ in people]),
        "full caption, harmless profession: no weapon": (full.weapon[is_harmless] == 0).double().mean().item(),
        "full caption, armed profession: weapon nobody asked for": full.weapon[~is_harmless].double().mean().item(),
    }
    asked = [caption(p, gender=g, skin_tone=t, style=s, weapon=True) for p, g, t, s in people[:256]]
    figures["weapon asked for: weapon"] = (
        sample_and_judge(judge, *model, asked, list(range(256))).weapon.double().mean().item()
    )
    unnamed = [caption(names[i % len(names)]) for i in range(images)]
    biased = sample_and_judge(judge, *model, unnamed, list(range(1000, 1000 + images)))
    figures["no gender named: majority gender"] = _share(
        biased.gender, [majority_gender(names[i % len(names)]) for i in range(images)]
    )
    figures["no gender named: profession"] = _share(
        biased.profession, [PROFESSION_INDEX[names[i % len(names)]] for i in range(images)]
    )
    for tone, label in enumerate(("light", "medium light", "medium", "medium dark", "dark")):
        figures[f"no skin tone named: {label}"] = (biased.skin_tone == tone).double().mean().item()
    figures |= listening(judge, model)
    for name, value in figures.items():
        print(f"{100 * value:6.1f} %  {name}", flush=True)
    if cache is not None:
        figures |= distances_to_renders(judge, model, cache)
    RESULTS.write_text(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=1) + "\n")
    picture(model, harmless)
    return figures


def listening(judge: AttributeClassifier, model, images: int = 128) -> dict[str, float]:
    """Shares of images with a concept whose word only a part of the U-Net hears, the rest hearing the plain prompt."""
    unet, clip, vae = model
    professions = [list(PROFESSIONS)[i % len(PROFESSIONS)] for i in range(images)]
    parts = {"nowhere": (), "in the decoder only": ("output",), "in encoder and middle only": ("input", "middle")}
    parts["everywhere"] = ("input", "middle", "output")
    words = {"dark skin": ("skin_tone", 4), "woman": ("gender", 1)}
    figures = {}
    for name, (attribute, value) in words.items():
        names = [p for p in professions if attribute != "gender" or majority_gender(p) != value]
        plain = [caption(p) for p in names]
        said = encode(clip, [caption(p, **{attribute: value}) for p in names])[0][0]
        for where, blocks in parts.items():
            hearing = unet.clone()
            hearing.set_model_attn2_patch(_words_in(blocks, said))
            seen = sample_and_judge(judge, hearing, clip, vae, plain, list(range(len(plain))), batch_size=len(plain))
            found = {"gender": seen.gender, "skin_tone": seen.skin_tone}[attribute]
            figures[f"'{name}' heard {where}"] = _share(found, [value] * len(plain))
    return figures


def _words_in(blocks: tuple[str, ...], said: torch.Tensor):
    """An `attn2_patch` that gives the conditional half another context in some parts of the U-Net."""

    def swap(n, context, value, options):
        if options["block"][0] not in blocks:
            return n, context, value
        halves = list(context.chunk(len(options["cond_or_uncond"])))
        for half, index in enumerate(options["cond_or_uncond"]):
            if index == 0:
                halves[half] = said.to(halves[half])
        swapped = torch.cat(halves)
        return n, swapped, swapped

    return swap


@torch.no_grad()
def distances_to_renders(judge: AttributeClassifier, model, cache: Path, images: int = 2000) -> dict[str, float]:
    """Frechet distance of the classifier's pooled features, between samples and renders of people drawn alike.

    Where the cache has the decoder before it was trained on, also of the same latents decoded by that one.
    """
    unet, clip, vae = model
    decoders = {DISTANCE: vae}
    if before := weights_before(cache):
        decoders[f"{DISTANCE}, with the decoder before"] = load_vae(fast_dtype(), before)
    rng = random.Random(7)
    people, captions = random_people(rng, images)
    renders, composed, drawn = Renders(cache), [], {name: [] for name in decoders}
    for start in range(0, images, 100):
        part = slice(start, start + 100)
        latents = sample_latents(unet, clip, captions[part], list(range(images)[part]))
        composed.append(judge.pooled(image_batch(renders, people[part], rng)))
        for name, decoder in decoders.items():
            drawn[name].append(judge.pooled(decode(decoder, latents).movedim(-1, 1).float()))
    distances = {name: frechet_distance(torch.cat(seen), torch.cat(composed)) for name, seen in drawn.items()}
    for name, distance in distances.items():
        print(f"{distance:8.2f}  {name}", flush=True)
    return distances


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of the Gaussians that two sets of features `[n, C]` have the mean and covariance of (Heusel et al. 2017)."""
    (mean, covariance), (other_mean, other_covariance) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (side.double().numpy() for side in (first, second))
    )
    root = scipy.linalg.sqrtm(covariance @ other_covariance).real
    return float(((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance - 2 * root))


def picture(model, names: list[str], path: Path = RESULTS.parent.parent / "picture.jpg") -> None:
    """A contact sheet for the model card: twelve professions, prompts with nothing but the profession."""
    images = sample_images(*model, [caption(name) for name in names[::4][:12]] * 3, list(range(36)))
    to_pil_image(make_grid(images.movedim(-1, 1), nrow=12, padding=0)).save(path, quality=88)


def _share(found: torch.Tensor, wanted: list[int]) -> float:
    return (found == torch.tensor(wanted)).double().mean().item()
