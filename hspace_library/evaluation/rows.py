"""Rows of an evaluation: images of some prompts under one method, judged. A row is one task of a worker."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.samplers
import torch
from safetensors.torch import load_file, save

from hspace.concepts import Choice, Concept, Sum, Vector
from hspace.files import load_concept
from hspace.files.writing import replace_file
from hspace.steering import apply_steering
from hspace.version import VERSION

from ..checkpoints import Loaded, conditioning, weights_bytes
from ..discovering import write_json, write_picture
from ..jobs import digest_of, read_json
from ..sampling import decode, noise_for, sample, tiles
from .fid import features_of
from .judges import make_judge
from .sld import SafeLatentDiffusion

SHOWN = 8
"""Images of a row that are kept to be looked at."""


@dataclass(frozen=True)
class Steer:
    """What steers the images of a batch, as plain values.

    Attributes:
        terms: files of vectors; a term of several is a choice of one of them for each image.
        seed: of the choices.
        strength: on all.
    """

    terms: tuple[tuple[str, ...], ...]
    seed: int = 0
    strength: float = 1.0

    def concept(self) -> Concept:
        """The expression: a sum of vectors and of balanced choices."""
        parts: list[Concept] = []
        for files in self.terms:
            vectors = tuple(_vector(file) for file in files)
            choice = len(vectors) > 1
            parts.append(Choice(vectors, (1,) * len(vectors), self.seed) if choice else vectors[0])
        return parts[0] if len(parts) == 1 else Sum(tuple((1.0, part) for part in parts))


@dataclass(frozen=True)
class Batch:
    """Images of one prompt that are sampled together, one a seed."""

    prompt: str
    seeds: tuple[int, ...]
    steer: Steer | None = None
    asked: str = ""
    """What the images are compared with by CLIP; the prompt unless given."""


@dataclass(frozen=True)
class Row:
    """Images of some prompts under one method.

    Attributes:
        experiment, question, item, method: its place in the tables.
        fingerprints: of the checkpoint and of the vectors' files.
        sampling: width, height (0 for the model's native size), steps, cfg.
        negative: negative prompt.
        sld: settings and unsafe prompt of safe latent diffusion; None where CFG guides.
        judges: specs (`judges.make_judge`).
        questions: that are asked of each image.
        fid: file of the network whose features FID compares; "" for none.
        column: group of columns in the tables, which changes nothing about the row.
        out: folder of the evaluation.
    """

    experiment: str
    question: str
    item: str
    method: str
    batches: tuple[Batch, ...]
    fingerprints: tuple[str, ...]
    sampling: Mapping[str, Any]
    judges: tuple[Mapping[str, str], ...]
    questions: tuple[str, ...]
    out: str
    negative: str = ""
    sld: Mapping[str, Any] | None = None
    fid: str = ""
    column: str = ""

    @property
    def label(self) -> str:
        """What the console calls it."""
        return f"{self.experiment} {self.question}: {self.item}, {self.method}"

    @property
    def images(self) -> int:
        """How many."""
        return sum(len(batch.seeds) for batch in self.batches)

    @property
    def evaluations(self) -> int:
        """U-Net evaluations, one image each."""
        return self.images * self.sampling["steps"] * (3 if self.sld else 2)

    @property
    def path(self) -> Path:
        """File of its result: named by a digest of what determines it, so that a finished row is known again."""
        values = asdict(self)
        del values["out"], values["column"]
        return Path(self.out) / "rows" / f"{digest_of({**values, 'version': VERSION})[:32]}.json"

    def result(self) -> dict | None:
        """What was found; None where the row is not done."""
        return read_json(self.path)

    def features(self) -> torch.Tensor | None:
        """`[images, D]` for FID; None where there are none."""
        path = self.path.with_suffix(".safetensors")
        return load_file(path)["features"] if path.is_file() else None


@lru_cache(maxsize=64)
def _vector(file: str) -> Vector:
    return load_concept(file)


@lru_cache(maxsize=8)
def _judge(spec: str):
    return make_judge(json.loads(spec))


def run_row(loaded: Loaded, row: Row, tell: Callable[[int, int], None]) -> dict:
    """Sample and judge a row; its result, as it is on disk.

    Raises:
        ValueError: a vector or a judge that does not fit.
        OSError: the result could not be written.
    """
    began = time.perf_counter()
    judges = [_judge(json.dumps(dict(spec), sort_keys=True)) for spec in row.judges]
    answers: dict[str, list[int | None]] = {question: [] for question in row.questions}
    scores: list[float | None] = []
    features, shown, done = [], [], 0
    for batch in row.batches:
        images = sample_batch(loaded, row, batch).clone()
        for question in row.questions:
            judge = next(judge for judge in judges if question in judge.questions)
            answers[question] += list(judge.answers(question, images))
        scorer = next((judge for judge in judges if hasattr(judge, "agreement")), None)
        if scorer is not None:
            scores += scorer.agreement(images, batch.asked or batch.prompt)
        if row.fid:
            features.append(features_of(row.fid, images))
        if len(shown) < SHOWN:
            shown += list(images[: SHOWN - len(shown)])
        done += len(images)
        tell(done, row.images)
    if features:
        replace_file(row.path.with_suffix(".safetensors"), save({"features": torch.cat(features)}))
    write_picture(tiles(torch.stack(shown), min(4, len(shown))), row.path.with_suffix(".jpg"))
    result = {
        "label": row.label,
        "images": row.images,
        "answers": answers,
        "scores": scores,
        "seconds": round(time.perf_counter() - began, 2),
    }
    write_json(row.path, result)
    return result


def sampling_of(loaded: Loaded, row: Row) -> dict[str, Any]:
    """The row's sampling, its size known."""
    native = loaded.native_size()
    return {key: value or native if key in ("width", "height") else value for key, value in row.sampling.items()}


@torch.inference_mode()
def sample_batch(loaded: Loaded, row: Row, batch: Batch) -> torch.Tensor:
    """IMAGE `[n, H, W, 3]`."""
    model, seeds, sampling = loaded.model, list(batch.seeds), sampling_of(loaded, row)
    if batch.steer is not None:
        model = apply_steering(model, batch.steer.concept(), batch.steer.strength)
    if row.sld is None:
        return sample(loaded, model, batch.prompt, seeds, negative=row.negative, **sampling)
    noise = noise_for(loaded, seeds, sampling["width"], sampling["height"])
    guider = SafeLatentDiffusion(model)
    texts = (batch.prompt, row.negative, row.sld["unsafe"])
    conds = [conditioning(loaded.clip, [text]) for text in texts]
    guider.configure(*conds, sampling["cfg"], row.sld["settings"], sampling["steps"])
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", sampling["steps"])
    euler = comfy.samplers.sampler_object("euler")
    latents = guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=0)
    return decode(loaded, latents)


def probe(loaded: Loaded, row: Row, tell: Callable[[int, int], None]) -> dict:
    """What a row costs, by its first batch at one step and at three: seconds an evaluation and an image, and memory.

    Returns:
        "evaluation" and "image" in seconds, what does not depend on the steps being the image's; "bytes".
    """
    first, took = Batch(row.batches[0].prompt, row.batches[0].seeds), []
    for steps in (1, 1, 3):  # the first to warm up
        began = time.perf_counter()
        images = sample_batch(loaded, replace(row, sampling={**row.sampling, "steps": steps}, sld=None), first)
        took.append((time.perf_counter() - began) / len(images))
    evaluation = max(0.0, took[2] - took[1]) / 4
    channels = loaded.model.get_model_object("latent_format").latent_channels
    shape = [2 * len(images), channels, *(side // 8 for side in images.shape[1:3])]
    activations = loaded.model.memory_required(shape)
    image = max(0.0, took[1] - 2 * evaluation)
    return {"evaluation": evaluation, "image": image, "bytes": math.ceil(weights_bytes(loaded) + activations)}
