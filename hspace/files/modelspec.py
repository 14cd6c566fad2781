"""Metadata of vector files that other programs read: Stability AI's ModelSpec, version 1.0.1.

Model libraries, managers and interfaces show title, description, date, thumbnail and usage of any file that has these
keys. They are written beside the pack's own, which say more, and never read for what a vector is.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from datetime import datetime, timezone

import numpy as np
from PIL import Image

from ..concepts import Vector, quoted
from .names import safe_concept_name

PREFIX = "modelspec."
VERSION = "1.0.1"
IMPLEMENTATION = "h-space-steering"
KIND = "concept-vector"
"""What the file is to the model whose architecture it names, as `lora` is for a LoRA."""
THUMBNAIL_SIDE = 256
"""Pixels, as the standard recommends."""
LONGEST_THUMBNAIL = 2**16
"""Characters of the data URL; the longest text that a vector file may have."""
LONGEST_KEPT = 4096
"""Characters of a text that its owner wrote into an earlier file, and that a copy keeps."""
KEPT = ("author", "license", "tags", "date")
_ARCHITECTURES = {
    "SD1": "stable-diffusion-v1",
    "SD2": "stable-diffusion-v2-512",  # v2-768-v where it predicts v
    "SDXL": "stable-diffusion-xl-v1-base",
    "SDXL-refiner": "stable-diffusion-xl-v1-refiner",
    "SVD_img2vid": "stable-video-diffusion-img2vid-v1",
}
_PREDICTIONS = {"v_prediction": "v"}
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+=*", re.ASCII)
_PIXELS_PER_LATENT = 8


def modelspec(vector: Vector, sha256: str, preview: np.ndarray | None = None) -> dict[str, str]:
    """The standard's keys and texts for a vector.

    Author, licence, tags, date and thumbnail of the file that it was loaded from are kept.

    Args:
        vector: whose file it is.
        sha256: hex digest of all tensor data of the file.
        preview: float `[H, W, 3]` in [0, 1], for the thumbnail; None keeps an earlier one.
    """
    provenance = vector.provenance
    range_text, before = provenance.range_text(), _kept(provenance.other)
    texts = {
        "sai_model_spec": VERSION,
        "architecture": f"{_architecture(vector)}/{KIND}",
        "implementation": IMPLEMENTATION,
        "title": safe_concept_name(vector.name),
        "description": _description(vector),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hash_sha256": f"0x{sha256}",
        "usage_hint": f"Load Concept Vector, Apply H-Space Steering{f'; {range_text}' if range_text else ''}",
        "trigger_phrase": "",
        **before,
    }
    if provenance.latent_width and provenance.latent_height:
        width, height = (_PIXELS_PER_LATENT * side for side in (provenance.latent_width, provenance.latent_height))
        texts["resolution"] = f"{width}x{height}"
    if provenance.prediction_type:
        texts["prediction_type"] = _PREDICTIONS.get(provenance.prediction_type, provenance.prediction_type)
    if preview is not None:
        texts["thumbnail"] = thumbnail(preview)
    return {f"{PREFIX}{key}": text for key, text in texts.items()}


def thumbnail(pixels: np.ndarray) -> str:
    """A picture as a data URL of at most `LONGEST_THUMBNAIL` characters: a JPEG of at most 256 x 256.

    Args:
        pixels: float `[H, W, 3]` in [0, 1]; values outside are clipped.
    """
    picture = Image.fromarray((pixels[..., :3].clip(0, 1) * 255).round().astype(np.uint8))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    for quality in (85, 60, 30):  # noise at the best quality is 56 KB, which base64 makes 75
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=quality)
        url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
        if len(url) <= LONGEST_THUMBNAIL:
            break
    return url


def without_modelspec(texts: Mapping[str, str]) -> dict[str, str]:
    """Metadata without the standard's keys."""
    return {key: text for key, text in texts.items() if not key.startswith(PREFIX)}


def with_kept_modelspec(texts: Mapping[str, str]) -> dict[str, str]:
    """Metadata with no more of the standard's keys than a copy keeps."""
    return without_modelspec(texts) | {f"{PREFIX}{key}": text for key, text in _kept(texts).items()}


def _kept(texts: Mapping[str, str]) -> dict[str, str]:
    """What a copy keeps of the standard's keys of an earlier file. Files come from strangers: only what is in form."""
    kept = {key: texts.get(f"{PREFIX}{key}", "")[:LONGEST_KEPT] for key in KEPT}
    if not _DATE.fullmatch(kept["date"]):
        del kept["date"]
    picture = texts.get(f"{PREFIX}thumbnail", "")
    if len(picture) <= LONGEST_THUMBNAIL and _THUMBNAIL.fullmatch(picture):
        kept["thumbnail"] = picture
    return {key: text for key, text in kept.items() if text}


def _architecture(vector: Vector) -> str:
    if vector.family == "SD2" and vector.provenance.prediction_type == "v_prediction":
        return "stable-diffusion-v2-768-v"
    known = _ARCHITECTURES.get(vector.family)
    return known or re.sub(r"[^a-z0-9]+", "-", vector.family.lower()).strip("-") or "unknown"


def _description(vector: Vector) -> str:
    provenance = vector.provenance
    prompts = {
        "with": provenance.concept_prompt,
        "without": provenance.base_prompt,
        "avoiding": provenance.avoid_prompt,
        "keeping": provenance.keep_prompt,
    }
    found = ", ".join(f"{word} {quoted(text, 300)}" for word, text in prompts.items() if text)
    sentences = ["A concept vector for ComfyUI's H-Space Steering."]
    sentences += [f"Found {found}."] if found else []
    if text := provenance.range_text():
        sentences.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(sentences)
