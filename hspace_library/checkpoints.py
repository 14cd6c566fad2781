"""Checkpoint files: what is in them without loading them, what tells one from another, and loading them."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.model_detection
import comfy.model_management
import comfy.sd
import folder_paths
import torch

from hspace.bottleneck import find_bottleneck

from .spec import DEMO, Checkpoint
from .worker import first_line

MAX_HEADER = 100 * 2**20
"""Bytes of the description of a checkpoint's tensors, as safetensors itself allows."""
SUPPORTED = "Supported are SD 1.x, 2.x, SDXL, SSD-1B, Segmind Vega, KOALA and their fine-tunes."
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        path: of the file, or "demo".
        model, clip, vae: as ComfyUI's Load Checkpoint gives them.
    """

    path: str
    model: object
    clip: object
    vae: object

    def native_size(self) -> int:
        """Pixels along each side of the images that it was trained on."""
        return find_bottleneck(self.model).native_size or 512


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """See, without loading it, whether a checkpoint is one that concepts can be discovered on.

    Files other than safetensors say nothing of themselves before they are loaded; of those, only that they are there.

    Raises:
        ValueError: there is none, it is no complete checkpoint, or its model has no bottleneck, as Flux.
    """
    if checkpoint.is_demo:
        try:
            from demo.architecture import UNET_WEIGHTS
        except ImportError:
            raise ValueError(
                "checkpoint demo: the demo model comes with the repository, and is not installed with the package; run "
                "from a checkout, or name a checkpoint file."
            ) from None
        if not UNET_WEIGHTS.is_file():
            raise ValueError(f"checkpoint demo: {UNET_WEIGHTS} is missing; get the repository again.")
        return
    path = Path(checkpoint.path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: there is no such file; correct the path.")
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return
    keys = _read_header(path)
    found, config = _detected(keys)
    if not found:
        raise ValueError(f"checkpoint {path}: no image model that ComfyUI knows is in this file. {SUPPORTED}")
    if found.get("image_model") or "model_channels" not in found:
        name = type(config).__name__ if config else found.get("image_model", "another kind of model")
        raise ValueError(f"checkpoint {path}: {name} has no U-Net, and so no bottleneck to steer. {SUPPORTED}")
    if config is None:
        raise ValueError(f"checkpoint {path}: ComfyUI does not know a U-Net of this shape. {SUPPORTED}")
    parts = {"text encoder": (*TEXT_PREFIXES, *config.text_encoder_key_prefix), "VAE": config.vae_key_prefix}
    for part, prefixes in parts.items():
        if not any(key.startswith(tuple(prefixes)) for key in keys):
            raise ValueError(
                f"checkpoint {path}: it has no {part}; a complete checkpoint is needed. Merge them with ComfyUI's Save "
                "Checkpoint."
            )


def _detected(keys: dict[str, torch.Tensor]) -> tuple[dict | None, object]:
    """What ComfyUI's model detection says of tensors: structure and configuration of the model; None for neither."""
    for prefix in (comfy.model_detection.unet_prefix_from_state_dict(keys), ""):
        try:
            found = comfy.model_detection.detect_unet_config(keys, prefix)
            if found:
                return found, comfy.model_detection.model_config_from_unet_config(found, keys)
        except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, NotImplementedError):
            continue
    return None, None


def _read_header(path: Path) -> dict[str, torch.Tensor]:
    """Tensors without values, by name, as the head of a safetensors file describes them."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("its head is too long")
            head = json.loads(file.read(length))
        head.pop("__metadata__", None)
        tensors = {
            key: torch.empty(entry["shape"], dtype=_DTYPES.get(entry["dtype"], torch.uint8), device="meta")
            for key, entry in head.items()
        }
        end = max((entry["data_offsets"][1] for entry in head.values()), default=0)
    except OSError as error:
        raise ValueError(f"checkpoint {path}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RuntimeError) as error:
        raise ValueError(f"checkpoint {path}: not a readable safetensors file; download it again.") from error
    if path.stat().st_size < 8 + length + end:
        raise ValueError(f"checkpoint {path}: the file is shorter than it says; download it again.")
    return tensors


def fingerprint(checkpoint: Checkpoint, known: dict[str, list]) -> str:
    """SHA-256 of a checkpoint's content, 64 hex digits.

    Args:
        known: fingerprints by path, with size and time of change; what is new is added.
    """
    paths = _demo_files() if checkpoint.is_demo else [Path(checkpoint.path)]
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        entry = known.get(str(path))
        if not entry or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            with path.open("rb") as file:
                entry = known[str(path)] = [stat.st_size, stat.st_mtime_ns, _file_digest(file)]
        digest.update(entry[2].encode())
    return digest.hexdigest()


def _file_digest(file) -> str:
    digest, chunk = hashlib.sha256(), bytearray(2**20)
    while count := file.readinto(chunk):
        digest.update(memoryview(chunk)[:count])
    return digest.hexdigest()


def _demo_files() -> list[Path]:
    from demo.architecture import TEXT_WEIGHTS, UNET_WEIGHTS, VAE_WEIGHTS

    return [UNET_WEIGHTS, TEXT_WEIGHTS, VAE_WEIGHTS]


def bytes_of(checkpoint: Checkpoint) -> int:
    """Size of its files on disk."""
    return sum(path.stat().st_size for path in (_demo_files() if checkpoint.is_demo else [Path(checkpoint.path)]))


@torch.inference_mode()
def load(path: str) -> Loaded:
    """Load a checkpoint as ComfyUI's Load Checkpoint does.

    Raises:
        ValueError: it is none that concepts can be discovered on.
    """
    if path == DEMO:
        from demo.loader import load_demo_model

        return Loaded(path, *load_demo_model())
    embeddings = folder_paths.get_folder_paths("embeddings")
    try:
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(path, embedding_directory=embeddings)[:3]
    except (OSError, comfy.model_management.OOM_EXCEPTION):
        raise  # of the machine, not of the file
    except Exception as error:
        raise ValueError(f"checkpoint {path}: ComfyUI cannot load this file ({first_line(error)}).") from error
    if model is None or clip is None or vae is None:
        raise ValueError(f"checkpoint {path}: model, text encoder and VAE are needed, and not all are in this file.")
    find_bottleneck(model)
    return Loaded(path, model, clip, vae)


def conditioning(clip, texts: list[str], notes: Mapping[str, str] | None = None) -> list:
    """CONDITIONING of one entry a text, as CLIP Text Encode makes each and Conditioning (Combine) joins them."""
    entries = []
    for text in texts:
        (entry,) = clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)
        entries.append([entry[0], {**entry[1], **(notes or {})}])
    return entries


def weights_bytes(loaded: Loaded) -> int:
    """Bytes of a loaded checkpoint's U-Net as it is kept."""
    parameters = loaded.model.model.parameters()
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in parameters)
