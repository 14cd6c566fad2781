"""Measure the demo model with its classifier: the figures of the model card."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ..captions import ARMED, PROFESSIONS, caption, majority_gender
from ..classifier import load_classifier
from ..generate import sample_and_judge, sample_images
from ..loader import load_demo_model
from .common import PROFESSION_INDEX

RESULTS = Path(__file__).parent.parent / "weights" / "evaluation.json"


def main(images: int = 512) -> dict[str, float]:
    """Draw, judge, print and write `evaluation.json`."""
    model = load_demo_model()
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
    for name, value in figures.items():
        print(f"{100 * value:6.1f} %  {name}", flush=True)
    RESULTS.write_text(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=1) + "\n")
    picture(model, harmless)
    return figures


def picture(model, names: list[str], path: Path = RESULTS.parent.parent / "picture.jpg") -> None:
    """A contact sheet for the model card: twelve professions, prompts with nothing but the profession."""
    images = sample_images(*model, [caption(name) for name in names[::4][:12]] * 3, list(range(36)))
    to_pil_image(make_grid(images.movedim(-1, 1), nrow=12, padding=0)).save(path, quality=88)


def _share(found: torch.Tensor, wanted: list[int]) -> float:
    return (found == torch.tensor(wanted)).double().mean().item()
