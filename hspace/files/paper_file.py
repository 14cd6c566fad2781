"""Read the vectors that the paper's authors publish: `unet.pth` with `concept_dict.json` beside it.

`unet.pth` holds `{"controlnet.fc1.weight": [C * H * W, N]}` for SD 1.x, C = 1280 and a square map; column i is concept
i of the list beside it. Files come from strangers: they are opened as plain tensors only, and what else such files can
hold is refused before torch sees it.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..concepts import Provenance, Vector, check_finite, quoted
from .names import is_name
from .reading import GET_ANOTHER, parse_json, read_file
from .vector_file import MAX_SIDE

PAPER_CHANNELS, PAPER_KEY, PAPER_FAMILY = 1280, "controlnet.fc1.weight", "SD1"
ONLY = "Only the paper's published format is read; choose another file, or download it again."
MAX_LIST = 2**20
"""Bytes of `concept_dict.json`."""
MAX_RECORDS, MAX_STRUCTURE = 64, 2**16
"""Files inside of a `.pth`, which is a zip archive, and bytes of the one that describes the tensors."""
MAX_COLUMNS = 100_000
COLUMNS_LOOKED_AT = 1000
STARTS_WITHIN, STARTING_RMS = 0.1, 0.1 / math.sqrt(3)
"""The authors' training begins with 100 columns of uniform noise within +-0.1 and trains those of its concepts."""
_COLUMN = re.compile("[0-9]{1,6}", re.ASCII)
_RECORD = b"PK\x01\x02"
"""Begins the entry of each file in a zip archive's directory."""
_CALLED = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch DoubleStorage",
    "collections OrderedDict",
}
"""All that a matrix saved by torch needs; others make sparse, nested or meta tensors, or memory of any size."""
_MAKES_OBJECTS = {"NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"}
"""Opcodes that make objects in other ways than a matrix saved by torch does."""


def concept_names(path: Path) -> list[str]:
    """Concepts of a foreign `.pth` file by column, from the `concept_dict.json` beside it; empty where there is none.

    The json maps either names to column numbers or column numbers to names.

    Raises:
        ValueError: it is no such list, or has a name that is none (`names.is_name`).
    """
    beside = Path(path).parent / "concept_dict.json"
    if not beside.is_file():
        return []
    return parse_names(read_file(beside, MAX_LIST), f"{beside.name} beside {quoted(Path(path).name)}")


def parse_names(content: bytes, name: str) -> list[str]:
    """The concepts by column that a `concept_dict.json` lists; `name` is the file's in messages."""
    try:
        listed = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON; correct it, or remove it and give a column number.") from error
    if isinstance(listed, dict):
        listed = _by_column(listed)
    if isinstance(listed, list) and all(is_name(concept) for concept in listed):
        return listed
    raise ValueError(
        f"{name} does not map concept names to columns 0, 1, 2 ...; correct it, or remove it and give a column number."
    )


def _by_column(listed: dict) -> list | None:
    pairs = [(value, key) if _is_column(value) else (key, value) for key, value in listed.items()]
    if not all(_is_column(column) for column, _ in pairs):
        return None
    columns = {int(column): concept for column, concept in pairs}
    return [columns[column] for column in sorted(columns)] if sorted(columns) == list(range(len(pairs))) else None


def _is_column(value: object) -> bool:
    return isinstance(value, (str, int)) and _COLUMN.fullmatch(str(value)) is not None


def import_paper_concept(path: Path, concept: str, note: Callable[[str], None] | None = None) -> Vector:
    """One column of the published vectors of SD 1.4, `[1280, 8, 8]`.

    Args:
        path: the `.pth` file, opened with `weights_only=True`.
        concept: a name from `concept_dict.json`, or a column number.
        note: told where the column looks like the noise that training begins with.

    Raises:
        ValueError: another layout, an unknown concept, or values out of bounds.
    """
    path = Path(path)
    matrix = parse_matrix(read_file(path), quoted(path.name))
    vector = _column_as_vector(matrix, concept_names(path), concept, path)
    if note is not None and is_untrained(vector.tensor):
        first = range(min(matrix.shape[1], COLUMNS_LOOKED_AT))
        trained = [str(column) for column in first if not is_untrained(matrix[:, column])]
        note(
            f"concept_name: {quoted(concept)} of {quoted(path.name)} looks untrained: uniform noise within 0.1, as the "
            f"authors' training begins with. Columns that look trained: {', '.join(trained[:20]) or 'none'}."
        )
    return vector


def is_untrained(column: torch.Tensor) -> bool:
    """True where values are the uniform noise that the authors' training script begins with."""
    column = column.float()
    rms = column.square().mean().sqrt().item()
    return column.abs().max().item() <= STARTS_WITHIN * 1.001 and abs(rms / STARTING_RMS - 1) < 0.02


def parse_matrix(content: bytes, name: str) -> torch.Tensor:
    """The matrix `[C * H * W, N]` that the bytes of a file hold; `name` is the file's in messages.

    Raises:
        ValueError: anything but a zip archive of uncompressed files that describes such a matrix.
    """
    records = _read_records(content, name)
    try:
        state = torch.load(_archive(records), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{name} cannot be opened safely ({type(error).__name__}): it is damaged. {ONLY}") from error
    weight = state[PAPER_KEY] if isinstance(state, Mapping) and PAPER_KEY in state else None
    if (
        not isinstance(weight, torch.Tensor)
        or (weight.layout, weight.device.type) != (torch.strided, "cpu")
        or weight.ndim != 2
        or not weight.is_floating_point()
    ):
        raise ValueError(f"{name}: no matrix '{PAPER_KEY}'. {ONLY}")
    rows, columns = weight.shape
    if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes() or columns > MAX_COLUMNS:
        raise ValueError(f"{name}: '{PAPER_KEY}' claims {rows} x {columns} values, more than the file holds. {ONLY}")
    if weight.untyped_storage().nbytes() not in {len(record) for record in records.values()}:
        raise ValueError(f"{name} cannot be opened safely: it is damaged. {ONLY}")
    side = math.isqrt(rows // PAPER_CHANNELS)
    if not 0 < side <= MAX_SIDE or side * side * PAPER_CHANNELS != rows or not columns:
        raise ValueError(f"{name}: {rows} rows of {columns} are not {PAPER_CHANNELS} channels of a square map. {ONLY}")
    return weight.detach()


def _read_records(content: bytes, name: str) -> dict[str, bytes]:
    """The files inside of an archive; ValueError where they are not what `torch.save` writes of a matrix."""
    try:
        if content.count(_RECORD) > MAX_RECORDS:
            raise ValueError("too many files")
        archive = zipfile.ZipFile(io.BytesIO(content))
        listed = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in listed):
            raise ValueError("compressed or encrypted files")
        if sum(record.file_size for record in listed) > len(content):
            raise ValueError("more bytes than the file has")
        records = {record.filename: archive.read(record) for record in listed}
        (structure,) = (record for path, record in records.items() if path.split("/")[-1] == "data.pkl")
        if len(records) != len(listed) or len(structure) > MAX_STRUCTURE:
            raise ValueError("two files of one name, or a long description of tensors")
    except Exception as error:  # zipfile raises many kinds
        raise ValueError(
            f"{name} cannot be opened safely: it is no plain archive of tensors as torch.save writes it. {ONLY}"
        ) from error
    if (found := _foreign(structure)) is not None:
        raise ValueError(f"{name} cannot be opened safely: it holds more than plain tensors ({quoted(found)}). {ONLY}")
    return records


def _archive(records: dict[str, bytes]) -> io.BytesIO:
    """The same files in a new archive, in which torch finds what was checked, whatever else the old one says."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path, record in records.items():
            file.writestr(path, record)
    archive.seek(0)
    return archive


def _foreign(structure: bytes) -> str | None:
    """The first thing in the description of an archive's tensors that a plain matrix does not need; None if nothing."""
    try:
        for opcode, argument, _ in pickletools.genops(structure):
            if opcode.name == "PROTO" and argument != 2:
                return f"protocol {argument}"
            if opcode.name == "GLOBAL" and argument not in _CALLED:
                return str(argument)
            if opcode.name in _MAKES_OBJECTS:
                return opcode.name
    except Exception:  # pickletools raises many kinds
        return "damaged"
    return None


def _column_as_vector(matrix: torch.Tensor, names: list[str], concept: str, path: Path) -> Vector:
    column = _column(quoted(path.name), concept, names, matrix.shape[1])
    side = math.isqrt(matrix.shape[0] // PAPER_CHANNELS)
    tensor = matrix[:, column].float().reshape(PAPER_CHANNELS, side, side)
    check_finite(quoted(path.name), tensor, GET_ANOTHER)
    provenance = Provenance(
        base_model=PAPER_FAMILY,
        prediction_type="epsilon",
        latent_height=side * 8,
        latent_width=side * 8,
        method="paper",
        created_with=f"imported from {path.name}, column {column}",
    )
    return Vector(tensor, names[column] if column < len(names) else f"{path.stem} {column}", PAPER_FAMILY, provenance)


def _column(name: str, concept: str, names: list[str], count: int) -> int:
    concept = concept.strip() if isinstance(concept, str) else str(concept)
    if concept in names:
        column = names.index(concept)
    elif _is_column(concept):
        column = int(concept)
    else:
        known = quoted(", ".join(names), 400) if names else "no concept_dict.json lies beside it"
        raise ValueError(
            f"concept_name: {quoted(concept)} is not in {name}. Known: {known}. Give a name or a column number, 0 to "
            f"{count - 1}."
        )
    if column >= count:
        raise ValueError(
            f"concept_name: column {column} of {quoted(concept)} is beyond the {count} columns of {name}; give one of "
            f"0 to {count - 1}."
        )
    return column
