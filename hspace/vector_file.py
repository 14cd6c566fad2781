"""Read and write concept vectors. Files come from strangers: everything is checked before it is used.

Own format, one `*.safetensors` per concept: tensor `direction` (float32 or float16, `[C, H, W]`) and metadata of
strings. Foreign format, read only: the `unet.pth` of the paper's authors (`controlnet.fc1.weight`, `[C * H * W, N]`)
with the `concept_dict.json` beside it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from .concept import Direction

FORMAT = "hspace-concept-vector"
FORMAT_VERSION = "1"
FOLDER_KIND = "concept_vectors"
EXTENSIONS = frozenset({".safetensors", ".pth"})
REQUIRED_METADATA = ("format", "format_version", "name", "base_model")
MAX_BYTES = 256 * 2**20
MAX_CHANNELS, MAX_SIDE = 8192, 512
PAPER_CHANNELS, PAPER_KEY = 1280, "controlnet.fc1.weight"


def save_direction(direction: Direction, path: Path) -> Path:
    """Write atomically; `path` gets the suffix `.safetensors`.

    A direction of an interrupted discovery keeps its optimiser state as further tensors `state.*`.
    """
    path = (
        Path(path).with_suffix(".safetensors") if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"direction": direction.tensor} | {
        f"state.{key}": value.detach().cpu().float().contiguous() for key, value in direction.extra.items()
    }
    metadata = {
        **direction.metadata,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": direction.name,
        "h_channels": str(direction.tensor.shape[0]),
    }
    metadata.setdefault("base_model", direction.family)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)
    return path


def load_direction(path: Path) -> Direction:
    """Read a vector of the own format.

    Raises:
        ValueError: not such a file, or one whose size, shape, dtype or values are out of bounds.
    """
    path = Path(path)
    _check_size(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_metadata(path, metadata)
            if "direction" not in file.keys():
                raise ValueError(f"{path.name}: no tensor 'direction'; this is not a concept vector of this pack.")
            shape = file.get_slice("direction").get_shape()
            _check_shape(path, shape)
            direction = file.get_tensor("direction")
            extra = {key[len("state.") :]: file.get_tensor(key) for key in file.keys() if key.startswith("state.")}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}); download it again.") from error
    if direction.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{path.name}: 'direction' is {direction.dtype}; float32 or float16 is needed.")
    _check_finite(path, direction, *extra.values())
    return Direction(direction, metadata["name"], metadata["base_model"].split(":")[0], metadata, extra)


def concept_names(path: Path) -> list[str]:
    """Concepts of a foreign `.pth` file by column, from the `concept_dict.json` beside it; empty where there is none.

    The json maps either names to column numbers or column numbers to names.
    """
    beside = Path(path).parent / "concept_dict.json"
    if not beside.is_file():
        return []
    if beside.stat().st_size > 2**20:
        raise ValueError(f"{beside.name} beside {Path(path).name} is larger than 1 MiB; it is no list of concepts.")
    try:
        content = json.loads(beside.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{beside.name} beside {Path(path).name} is not valid JSON: {error}.") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict):
        pairs = [(value, key) if str(value).isdecimal() else (key, value) for key, value in content.items()]
        if all(str(column).isdecimal() and isinstance(name, str) for column, name in pairs):
            columns = {int(column): name for column, name in pairs}
            if sorted(columns) == list(range(len(columns))):
                return [columns[column] for column in range(len(columns))]
    raise ValueError(f"{beside.name} beside {Path(path).name} does not map concept names to columns 0, 1, 2 ...")


def import_paper_direction(path: Path, concept: str) -> Direction:
    """One column of the published vectors of SD 1.4, `[1280, 8, 8]`.

    Args:
        path: the `.pth` file, opened with `weights_only=True`.
        concept: a name from `concept_dict.json`, or a column number.

    Raises:
        ValueError: another layout, an unknown concept, or values out of bounds.
    """
    path = Path(path)
    _check_size(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path.name} cannot be opened safely ({type(error).__name__}): it is damaged, or holds more than plain "
            "tensors. Only the paper's published format is read."
        ) from error
    weight = state.get(PAPER_KEY) if isinstance(state, Mapping) else None
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"{path.name}: no matrix '{PAPER_KEY}'; only the paper's published format is read.")
    side = math.isqrt(weight.shape[0] // PAPER_CHANNELS)
    if side == 0 or side * side * PAPER_CHANNELS != weight.shape[0]:
        raise ValueError(f"{path.name}: {weight.shape[0]} rows are not {PAPER_CHANNELS} channels of a square map.")
    names = concept_names(path)
    column = _column(path, concept.strip(), names, weight.shape[1])
    direction = weight[:, column].float().view(PAPER_CHANNELS, side, side)
    _check_finite(path, direction)
    name = names[column] if column < len(names) else f"{path.stem} {column}"
    metadata = {
        "name": name,
        "base_model": "SD1",
        "prediction_type": "epsilon",
        "method": "paper",
        "h_channels": str(PAPER_CHANNELS),
        "latent_height": str(side * 8),
        "latent_width": str(side * 8),
        "created_with": f"imported from {path.name}, column {column}",
    }
    return Direction(direction, name, "SD1", metadata)


def free_path(folder: Path, prefix: str) -> Path:
    """A path in `folder` that does not exist yet: `prefix.safetensors`, then `prefix_2.safetensors` and so on.

    Raises:
        ValueError: the prefix is empty or leads out of the folder.
    """
    folder = Path(folder).resolve()
    parts = [part for part in re.split(r"[\\/]+", prefix.strip()) if part]
    clean = [re.sub(r'[<>:"|?*\x00-\x1f]', "_", part).strip(". ") for part in parts]
    if not parts or prefix.strip().startswith(("/", "\\")) or not all(clean) or ".." in parts:
        raise ValueError(f"filename_prefix: '{prefix}' is no file name inside {folder.name}; use e.g. 'sd15/woman'.")
    stem = folder.joinpath(*clean)
    if not stem.resolve().is_relative_to(folder):
        raise ValueError(f"filename_prefix: '{prefix}' leads out of {folder.name}; use e.g. 'sd15/woman'.")
    path, number = stem.with_name(stem.name + ".safetensors"), 2
    while path.exists():
        path, number = stem.with_name(f"{stem.name}_{number}.safetensors"), number + 1
    return path


def _column(path: Path, concept: str, names: list[str], count: int) -> int:
    if concept in names:
        column = names.index(concept)
    elif concept.isdecimal():
        column = int(concept)
    else:
        known = ", ".join(names) or f"no concept_dict.json lies beside it; give a column number, 0 to {count - 1}"
        raise ValueError(f"concept_name: '{concept}' is not in {path.name}. Known: {known}.")
    if column >= count:
        raise ValueError(f"concept_name: column {column} of '{concept}' is beyond the {count} columns of {path.name}.")
    return column


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path.name} is not there; it was moved or deleted.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES // 2**20} MiB; it is no concept vector.")


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    missing = [key for key in REQUIRED_METADATA if not metadata.get(key)]
    if missing or metadata["format"] != FORMAT:
        raise ValueError(f"{path.name} is not a concept vector of this pack: metadata {missing or 'format'} is wrong.")
    if metadata["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path.name} has format version {metadata['format_version']}, this pack reads {FORMAT_VERSION}; update the pack."
        )


def _check_shape(path: Path, shape) -> None:
    if len(shape) != 3 or not (0 < shape[0] <= MAX_CHANNELS and min(shape[1:]) > 0 and max(shape[1:]) <= MAX_SIDE):
        raise ValueError(
            f"{path.name}: 'direction' has shape {list(shape)}; [C, H, W] of a U-Net bottleneck is needed."
        )


def _check_finite(path: Path, *tensors: torch.Tensor) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ValueError(f"{path.name} has values that are not finite; find or download it again.")
