"""One job of a library on a loaded checkpoint: find the vector, or go on with it, and write it with its pictures."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from hspace.concepts import UnfinishedVector, Vector
from hspace.discovery import DiscoverySettings, Observer, PromptPairs, discover
from hspace.files import load_concept, save_concept
from hspace.files.writing import check_folder, remove_file, replace_file
from hspace.prompts import PROMPT_TEXT, noted_texts
from hspace.steering import apply_steering

from .checkpoints import Loaded, conditioning
from .jobs import Job, file_digest
from .sampling import decode, sample, tiles

MOST_PIXELS = 2048
"""Along the longer side of a picture; larger ones are made smaller."""


class LibraryObserver(Observer):
    """Keeps the vector of a running discovery on disk, and tells how far it is.

    Args:
        path: of the unfinished vector's file.
        steps: of the discovery; its last preview is kept, and no other is made.
        save_every: seconds from one save to the next.
        tell: called with the steps done and their number; what it raises ends the discovery.
    """

    def __init__(self, path: Path, steps: int, save_every: float, tell: Callable[[int, int], None]):
        self.path, self.save_every, self.tell, self.preview_every = path, save_every, tell, steps
        self.preview: torch.Tensor | None = None
        self.notes: list[str] = []
        self._saved_at = time.monotonic()

    def step(self, progress) -> None:
        self.preview = progress.preview
        if time.monotonic() - self._saved_at >= self.save_every and progress.step < progress.steps:
            self._save(progress.vector())
        self.tell(progress.step, progress.steps)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stopped(self, vector: Vector) -> None:
        self._save(vector)

    def _save(self, vector: Vector) -> None:
        self._saved_at = time.monotonic()
        try:
            save_concept(vector, self.path)
        except OSError as error:  # the discovery goes on: its end may find room
            logging.warning("The unfinished vector of '%s' cannot be saved: %s", vector.name, error)


def encoded_pairs(clip, job: Job) -> PromptPairs:
    """The job's prompts as Concept Prompts encodes them and Discover takes them."""
    roles = {"concept": [p.concept for p in job.pairs], "base": [p.base for p in job.pairs], "keep": list(job.keep)}
    if job.pairs[0].avoid:
        roles["avoid"] = [p.avoid for p in job.pairs]
    prompts = {
        role: [conditioning(clip, [text], {PROMPT_TEXT: text})[0] for text in texts] for role, texts in roles.items()
    }
    texts = {f"{role}_prompt": noted_texts(entries) for role, entries in prompts.items() if entries}
    empty = conditioning(clip, [""])
    avoid, keep = prompts.get("avoid"), prompts["keep"] or None
    return PromptPairs(prompts["concept"], prompts["base"], avoid, empty, texts, keep)


def run_job(loaded: Loaded, job: Job, tell: Callable[[int, int], None]) -> dict:
    """Do what a job lacks; returns its record, as it is on disk.

    Raises:
        ValueError: the discovery refuses its inputs.
        OSError: something could not be written.
    """
    record, began = job.record() or {}, time.perf_counter()
    check_folder(job.vector_path.parent)  # before minutes of work for a disk that is full
    if "file" not in record or record.get("digest") != job.digest or not job.vector_path.is_file():
        record = _discover(loaded, job, tell)
    _draw_strips(loaded, job)
    record |= {"strips": job.strips_digest, "seconds": record["seconds"] + time.perf_counter() - began}
    record["seconds"] = round(record["seconds"], 2)
    write_json(job.beside(".json"), record)
    return record


def _discover(loaded: Loaded, job: Job, tell: Callable[[int, int], None]) -> dict:
    settings = DiscoverySettings(**job.settings)
    observer = LibraryObserver(job.unfinished_path, settings.steps, job.save_every, tell)
    start = _unfinished(job.unfinished_path)
    with torch.inference_mode():
        discovery = discover(
            loaded.model, encoded_pairs(loaded.clip, job), settings, start_from=start, observer=observer
        )
        preview = None if observer.preview is None else _preview(loaded, observer.preview)
    record = {"digest": job.digest, "concept": job.concept, "checkpoint": job.checkpoint_name, "seconds": 0.0}
    write_json(job.beside(".json"), record)  # without "file": a vector that is there now is ours, and not finished
    if preview is not None:
        write_picture(preview, job.beside(".png"))
    save_concept(discovery.vector, job.vector_path, preview=None if preview is None else preview.numpy())
    record["file"] = file_digest(job.vector_path)
    record["resumed"] = 0 if start is None else len(start.state["losses"])
    record["notes"] = observer.notes
    record["facts"] = discovery.vector.provenance.to_strings()
    record["shapes"] = {str(site): list(tensor.shape) for site, tensor in discovery.vector.tensors.items()}
    write_json(job.beside(".json"), record)
    remove_file(job.unfinished_path)
    return record


def _unfinished(path: Path) -> UnfinishedVector | None:
    """The vector that an earlier worker left; None where there is none that can be gone on with."""
    if not path.is_file():
        return None
    try:
        vector = load_concept(path)
    except ValueError as error:
        logging.warning("An unfinished vector cannot be read, and is found anew: %s", error)
        return None
    return vector if isinstance(vector, UnfinishedVector) else None


def _preview(loaded: Loaded, latent: torch.Tensor) -> torch.Tensor:
    """`[H, W, 3]` of a discovery's last preview: the same seeds plain above and steered below."""
    latent = loaded.model.get_model_object("latent_format").process_out(latent.float().cpu())
    quarters = [part for row in latent.chunk(2, dim=-2) for part in row.chunk(2, dim=-1)]
    return tiles(decode(loaded, torch.cat(quarters)), 2)


def _draw_strips(loaded: Loaded, job: Job) -> None:
    strips = job.strips
    if not strips["prompts"]:
        return
    vector = load_concept(job.vector_path)
    width, height = (job.settings[side] or loaded.native_size() for side in ("width", "height"))
    draw = partial(sample, width=width, height=height, steps=strips["steps"], cfg=strips["cfg"])
    with torch.inference_mode():
        images = [
            draw(loaded, apply_steering(loaded.model, vector, strength), prompt, [strips["seed"]])
            for prompt in strips["prompts"]
            for strength in strips["strengths"]
        ]
    write_picture(tiles(torch.cat(images), len(strips["strengths"])), job.beside(".strips.jpg"))


def write_picture(pixels: torch.Tensor, path: Path) -> None:
    """Write `[H, W, 3]` in [0, 1] as PNG or JPEG, by the path's suffix."""
    picture = Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().cpu().numpy())
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    content = io.BytesIO()
    picture.save(content, "PNG" if path.suffix == ".png" else "JPEG", quality=90)
    replace_file(path, content.getvalue())


def write_json(path: Path, value: dict) -> None:
    """Write a file whole or not at all."""
    replace_file(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
