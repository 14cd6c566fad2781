"""What the benchmarks share: the demo model with its judge, pairs of prompts, and strength sweeps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from ..demo.captions import ARMED, MOSTLY_MEN, PROFESSION_INDEX, caption
from ..demo.classifier import Attributes, classify, load_classifier
from ..demo.generate import CFG, draw, encode
from ..demo.loader import load_demo_model, load_unet, load_vae
from ..hspace.concept import Concept, Direction
from ..hspace.discovery import Discovery, discover
from ..hspace.settings import DiscoverySettings
from ..hspace.steering import apply_steering

RESULTS = Path(__file__).parent / "results"
FOUND_ON, STEERED_ON = list(MOSTLY_MEN)[::2], list(MOSTLY_MEN)[1::2]
"""Professions that the model draws as men: one half to find vectors on, the other to use them on."""
ARMED_FOUND_ON, ARMED_STEERED_ON = list(ARMED)[::2], list(ARMED)[1::2]

DRAWING_DTYPE = torch.bfloat16
"""Of U-Net and VAE while images are drawn to be judged: half the time where the CPU has instructions for it."""

Steer = Callable[..., object]
"""`steer(model, strength=...)`: a ModelPatcher that is steered by other means than a concept."""

PAPER = {"method": "paper", "sample_count": 1000, "steps": 2500, "batch_size": 8, "learning_rate": 0.1}
"""Discovery as published (Li et al., section 4): 80,000 evaluations at 20 sampling steps."""


@dataclass(frozen=True)
class Task:
    """A concept to discover: pairs of prompts, what to avoid, and the attribute that the classifier should then see."""

    name: str
    concept: list[str]
    base: list[str]
    attribute: str
    value: int
    steered_on: list[str]
    named: dict
    avoid: list[str] | None = None
    found_on: tuple[str, ...] = ()


def attribute_task(name: str, attribute: str, value: int, found_on: list[str] = FOUND_ON) -> Task:
    """Gender or skin tone, over one half of the professions."""
    return Task(
        name,
        [caption(p, **{attribute: value}) for p in found_on],
        [caption(p) for p in found_on],
        attribute,
        value,
        STEERED_ON,
        {attribute: value},
        found_on=tuple(found_on),
    )


WOMAN = attribute_task("woman", "gender", 1)
DARK_SKIN = attribute_task("dark skin", "skin_tone", 4)
NO_WEAPON = Task(
    "no weapon",
    [caption(p) for p in ARMED_FOUND_ON],
    [caption(p) for p in ARMED_FOUND_ON],
    "weapon",
    0,
    ARMED_STEERED_ON,
    {},
    avoid=[caption(p, weapon=True) for p in ARMED_FOUND_ON],
    found_on=tuple(ARMED_FOUND_ON),
)
WOMAN_SINGLE_PAIR = Task("woman, one pair", ["a woman"], ["a person"], "gender", 1, STEERED_ON, {"gender": 1})


class Bench:
    """The demo model and its judge, loaded once."""

    @cached_property
    def parts(self):
        """MODEL, CLIP and VAE as the node loads them, to find vectors on."""
        return load_demo_model()

    @cached_property
    def drawing_parts(self):
        """MODEL, CLIP and VAE to draw many images with."""
        model = load_unet(DRAWING_DTYPE)
        model.set_model_compute_dtype(DRAWING_DTYPE)  # on a CPU, ComfyUI would compute in float32
        return model, self.parts[1], load_vae(DRAWING_DTYPE)

    def draw(self, prompts: list[str], seeds: list[int], concept: Concept | Steer | None = None, strength: float = 1.0,
             **options) -> torch.Tensor:  # fmt: skip
        """IMAGE `[len(prompts), 128, 128, 3]` of prompt i and seed i, steered where there is a concept."""
        model, clip, vae = self.drawing_parts
        if concept is not None and strength:
            steer = partial(apply_steering, concept=concept) if isinstance(concept, Concept) else concept
            model = steer(model, strength=strength)
        return draw(model, clip, vae, prompts, seeds, **options).clone()

    @cached_property
    def judge(self):
        return load_classifier()

    def conditioning(self, texts: list[str]) -> list:
        """CONDITIONING of one entry a prompt, as Conditioning (Combine) makes it."""
        with torch.inference_mode():
            return [encode(self.parts[1], [text])[0] for text in texts]

    def discover(
        self,
        task: Task,
        samples: torch.Tensor | None = None,
        model=None,
        start_from: Direction | None = None,
        **settings,
    ) -> tuple[Discovery, float]:
        """The discovery, and the seconds it took; `samples` are latents to learn from, `model` another than the node's."""
        options = DiscoverySettings(task.name, **{"width": 128, "height": 128, **settings})
        base = self.conditioning(task.base)
        # One and the same where only `avoid` says the concept, as where one node is connected to both inputs.
        concept = base if task.concept == task.base else self.conditioning(task.concept)
        avoid = self.conditioning(task.avoid) if task.avoid else None
        began = time.perf_counter()
        with torch.inference_mode():
            found = discover(model or self.parts[0], concept, base, options, samples, avoid, start_from)
        return found, time.perf_counter() - began

    def judge_prompts(self, task: Task, images: int, concept: Concept | None = None, strength: float = 0.0,
                      cfg: float = CFG, named: bool = False) -> dict[str, float]:  # fmt: skip
        """Shares of images with the concept, and with the profession still recognised, over unseen professions."""
        professions = [task.steered_on[i % len(task.steered_on)] for i in range(images)]
        prompts = [caption(p, **(task.named if named else {})) for p in professions]
        drawn = self.draw(prompts, [5000 + i for i in range(images)], concept, strength, cfg=cfg)
        return shares(classify(self.judge, drawn), task, professions)

    def sweep(self, task: Task, concept: Concept, strengths: list[float], images: int) -> list[dict[str, float]]:
        """`judge_prompts` at each strength, same seeds."""
        return [{"strength": s, **self.judge_prompts(task, images, concept, s)} for s in strengths]


def shares(seen: Attributes, task: Task, professions: list[str]) -> dict[str, float]:
    """Concept rate and fidelity of a batch of judged images."""
    wanted = torch.tensor([PROFESSION_INDEX[p] for p in professions])
    return {
        "concept": (getattr(seen, task.attribute) == task.value).double().mean().item(),
        "profession": (seen.profession == wanted).double().mean().item(),
    }


def mean_psnr(images: torch.Tensor, reference: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Mean PSNR in dB of IMAGE batches `[B, H, W, C]`, 60 at most for an image; `where`, bool `[B, H, W]`: pixels to compare."""
    error = (images - reference).square().mean(3)
    where = torch.ones_like(error) if where is None else where.to(error)
    error = ((error * where).sum((1, 2)) / where.sum((1, 2))).clamp_min(1e-6)
    return (-10 * error.log10()).mean().item()


def at_fidelity(rows: list[dict[str, float]], least: float = 0.95) -> dict[str, float]:
    """The row with the highest concept rate among those where professions are still recognised often enough."""
    faithful = [row for row in rows if row["profession"] >= least]
    return max(faithful, key=lambda row: row["concept"]) if faithful else {"strength": math.nan, "concept": math.nan}


def percent(value: float) -> str:
    """ "96.1 %"."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_json(name: str, content) -> None:
    """`benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def store(name: str, results: list[dict], place: Callable[[dict], tuple]) -> list[dict]:
    """All results in `benchmarks/results/<name>.json`, with these instead of those at their place, in order of place."""
    path = RESULTS / f"{name}.json"
    places = {place(result) for result in results}
    others = json.loads(path.read_text()) if path.exists() else []
    kept = sorted([*(other for other in others if place(other) not in places), *results], key=place)
    write_json(name, kept)
    return kept
