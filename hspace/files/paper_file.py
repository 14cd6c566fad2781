"""Read the vectors that the paper's authors publish: `unet.pth` with `concept_dict.json` beside it.

`unet.pth` holds `{"controlnet.fc1.weight": [C * H * W, N]}` for SD 1.x, C = 1280 and a square map; column i is concept
i of the list beside it. Files come from strangers: they are opened as plain tensors only, and checked before they are
used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from ..concepts import Provenance, Vector
from .vector_file import check_finite, check_size

PAPER_CHANNELS, PAPER_KEY = 1280, "controlnet.fc1.weight"


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


def import_paper_concept(path: Path, concept: str) -> Vector:
    """One column of the published vectors of SD 1.4, `[1280, 8, 8]`.

    Args:
        path: the `.pth` file, opened with `weights_only=True`.
        concept: a name from `concept_dict.json`, or a column number.

    Raises:
        ValueError: another layout, an unknown concept, or values out of bounds.
    """
    path = Path(path)
    check_size(path)
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
    tensor = weight[:, column].float().view(PAPER_CHANNELS, side, side)
    check_finite(path, tensor)
    name = names[column] if column < len(names) else f"{path.stem} {column}"
    provenance = Provenance(
        base_model="SD1",
        prediction_type="epsilon",
        latent_height=side * 8,
        latent_width=side * 8,
        method="paper",
        created_with=f"imported from {path.name}, column {column}",
    )
    return Vector(tensor, name, "SD1", provenance)


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
