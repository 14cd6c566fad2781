"""Read and write vectors in the pack's own format. Files come from strangers: everything is checked before it is used.

One `*.safetensors` per vector: tensor `direction` for h-space and `decoder.1`, `decoder.2` ... for further sites
(float32 or float16, `[C, H, W]` or `[C, 1, 1]`), tensors `response_up` `[C, R]` and `response_down` `[R, C]`, numbered
likewise, where what is added depends on h, tensors `state.*` where the discovery was not finished, and metadata
of strings. What is not known of the format is refused, and sizes are checked before anything of that size is made.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load, save

from ..concepts import MAX_RANK, Provenance, Response, UnfinishedVector, Vector, check_finite, quoted, shortened
from .modelspec import modelspec, with_kept_modelspec, without_modelspec
from .names import MAX_NAME, is_name, safe_concept_name
from .reading import GET_ANOTHER, MAX_BYTES, parse_json, read_file
from .writing import create_file, replace_file

FORMAT = "hspace-concept-vector"
FORMAT_VERSIONS = ("1", "2", "3")
"""1: h-space alone. 2: further tensors `decoder.1`, `decoder.2` ... for the other sites. 3: and responses."""
SUFFIX = ".safetensors"
MAX_SITES = 32
MAX_CHANNELS, MAX_SIDE = 8192, 512
REQUIRED_METADATA = ("format", "format_version", "name", "base_model")
MAX_HEADER = 2 * 2**20
"""Bytes of the description of the tensors and of all metadata."""
MAX_TENSORS, MAX_TEXTS = 512, 256
MAX_TEXT = 2**16
"""Characters of one text of the metadata; prompts are the longest."""
_OF_THE_FILE = ("format", "format_version", "name", "h_channels")
"""Metadata that belong to the file or to the vector itself, not to its provenance."""
_SITE_TENSOR = re.compile(r"direction|decoder\.([1-9][0-9]?)", re.ASCII)
_RESPONSE_TENSOR = re.compile(r"response_(up|down)(?:\.([1-9][0-9]?))?", re.ASCII)
_STATE_TENSOR = re.compile(r"state\.[a-z][a-z0-9_]{0,39}(?:\.[1-9][0-9]?)?", re.ASCII)
_VECTOR_DTYPES = ("F32", "F16", "BF16")
_STATE_DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8}
MAX_STATE_DIMENSIONS = 5


def save_concept(vector: Vector, path: Path | str, overwrite: bool = True, preview: np.ndarray | None = None) -> Path:
    """Write a vector whole or not at all, and return the path, which gets the suffix `.safetensors`.

    An unfinished vector keeps its optimiser state as further tensors `state.*`. A name that is none is made one
    (`safe_concept_name`), and texts of more than `MAX_TEXT` characters end in an ellipsis.

    Args:
        vector: to be written.
        path: of the file.
        overwrite: replace a file of that name; otherwise the new one gets a number, and no file is ever replaced.
        preview: float `[H, W, 3]` in [0, 1], a picture that other programs show for the file.

    Raises:
        ValueError: the vector is nothing that `load_concept` would read.
        OSError: the file could not be written.
    """
    path = Path(path) if Path(path).suffix.lower() == SUFFIX else Path(f"{path}{SUFFIX}")
    content = _to_bytes(vector, preview)
    _check_header(quoted(path.name), content)
    if not overwrite:
        return create_file(path, content)
    replace_file(path, content)
    return path


def load_concept(path: Path | str) -> Vector:
    """Read a vector; one whose file has optimiser state is an `UnfinishedVector`.

    Raises:
        ValueError: not such a file, or one whose size, shapes, dtypes, values or texts are out of bounds.
    """
    path = Path(path)
    return parse_concept(read_file(path), quoted(path.name))


def parse_concept(content: bytes, name: str) -> Vector:
    """The vector that the bytes of a file hold; `name` is the file's in messages. Raises as `load_concept` does."""
    metadata = _check_header(name, content)
    try:
        tensors = load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{name} is not a readable safetensors file ({shortened(error)}); download it again."
        ) from error
    check_finite(name, tensors, GET_ANOTHER)
    texts = {key: text for key, text in metadata.items() if key not in _OF_THE_FILE}
    provenance = Provenance.from_strings(with_kept_modelspec(texts))
    family = metadata["base_model"].split(":")[0]
    state = {key.removeprefix("state."): tensors.pop(key) for key in list(tensors) if key.startswith("state.")}
    responses = _responses(name, tensors)
    direction = tensors.pop("direction")
    decoder = {int(key.removeprefix("decoder.")): tensor for key, tensor in tensors.items()}
    vector = (direction, metadata["name"], family, provenance, decoder, responses)
    return UnfinishedVector(*vector, state) if state else Vector(*vector)


def _responses(name: str, tensors: dict[str, torch.Tensor]) -> dict[int, Response]:
    """The responses by site, whose tensors are taken out of `tensors`; ValueError where a half is missing."""
    halves: dict[str, dict[int, torch.Tensor]] = {"up": {}, "down": {}}
    for key in list(tensors):
        if found := _RESPONSE_TENSOR.fullmatch(key):
            halves[found[1]][int(found[2] or 0)] = tensors.pop(key)
    ups, downs = halves["up"], halves["down"]
    if ups.keys() != downs.keys():
        raise ValueError(f"{name}: 'response_up' and 'response_down' do not belong together; download it again.")
    return {site: Response(ups[site], downs[site]) for site in ups}


def _to_bytes(vector: Vector, preview: np.ndarray | None) -> bytes:
    state = vector.state if isinstance(vector, UnfinishedVector) else {}
    tensors = {"direction" if site == 0 else f"decoder.{site}": tensor for site, tensor in vector.tensors.items()}
    for site, response in vector.responses.items():
        number = f".{site}" if site else ""
        tensors |= {f"response_up{number}": response.up, f"response_down{number}": response.down}
    for key, tensor in state.items():
        dtype = tensor.dtype if tensor.dtype in _STATE_DTYPES.values() else torch.float32
        tensors[f"state.{key}"] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    metadata = {
        **without_modelspec(vector.provenance.to_strings()),
        "format": FORMAT,
        "format_version": FORMAT_VERSIONS[2 if vector.responses else bool(vector.decoder)],
        "name": safe_concept_name(vector.name),
        "h_channels": str(vector.tensor.shape[0]),
    }
    metadata.setdefault("base_model", vector.family)
    metadata = {key: _storable(text) for key, text in metadata.items()}
    content = save(tensors, metadata=metadata)
    header = int.from_bytes(content[:8], "little")
    standard = modelspec(vector, hashlib.sha256(memoryview(content)[8 + header :]).hexdigest(), preview)
    standard = {key: _storable(text) for key, text in standard.items()}
    if len(metadata) + len(standard) > MAX_TEXTS or header + len(json.dumps(standard)) > MAX_HEADER - 8:
        return content  # no room: what the vector itself says comes first
    return save(tensors, metadata=metadata | standard)


def _storable(text: str) -> str:
    """The text in UTF-8, which has no halves of characters, and no longer than `MAX_TEXT`."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _check_header(name: str, content: bytes) -> dict[str, str]:
    """The metadata of a file's content; ValueError where anything in its header is not of the format."""
    header = _parse_header(name, content)
    metadata = header.pop("__metadata__", {})
    _check_metadata(name, metadata)
    if "direction" not in header:
        raise ValueError(
            f"{name}: no tensor 'direction'; this is not a concept vector of this pack. Choose another file."
        )
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{name} has {len(header)} tensors, which no concept vector has; choose another file.")
    elements = sum(_check_tensor(name, key, entry, metadata["format_version"]) for key, entry in header.items())
    if 4 * elements > MAX_BYTES:
        raise ValueError(f"{name} declares more than {MAX_BYTES // 2**20} MiB of values; choose another file.")
    return metadata


def _parse_header(name: str, content: bytes) -> dict:
    """The JSON at the beginning of a safetensors file, after its length in eight bytes."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError(f"{name} is not a readable safetensors file (it is incomplete); download it again.")
    if length > MAX_HEADER:
        raise ValueError(
            f"{name} has a header of {length / 2**20:.0f} MiB, which no concept vector has (at most "
            f"{MAX_HEADER // 2**20} MiB); choose another file."
        )
    try:
        header = parse_json(content[8 : 8 + length])
    except ValueError as error:
        raise ValueError(
            f"{name} is not a readable safetensors file (its header is no JSON); download it again."
        ) from error
    if not isinstance(header, dict):
        raise ValueError(
            f"{name} is not a readable safetensors file (its header is no list of tensors); download it again."
        )
    return header


def _check_metadata(name: str, metadata: object) -> None:
    if not isinstance(metadata, Mapping) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(
            f"{name} is not a concept vector of this pack: its metadata are no texts. Choose another file."
        )
    missing = [key for key in REQUIRED_METADATA if not metadata.get(key)]
    if missing or metadata["format"] != FORMAT:
        raise ValueError(
            f"{name} is not a concept vector of this pack: metadata {missing or 'format'} is wrong. Choose another "
            "file."
        )
    if metadata["format_version"] not in FORMAT_VERSIONS:
        raise ValueError(
            f"{name} has format version {quoted(metadata['format_version'])}, this pack reads "
            f"{FORMAT_VERSIONS[0]} to {FORMAT_VERSIONS[-1]}; update the pack."
        )
    if len(metadata) > MAX_TEXTS or any(len(key) > MAX_NAME or len(text) > MAX_TEXT for key, text in metadata.items()):
        raise ValueError(
            f"{name} has more than {MAX_TEXTS} texts in its metadata, or one of more than {MAX_TEXT} characters; "
            "remove what does not belong to a concept vector."
        )
    if not metadata["base_model"].split(":")[0].strip():
        raise ValueError(f"{name}: base_model {quoted(metadata['base_model'])} names no family; save the vector again.")
    for key in ("name", "base_model"):
        if not is_name(text := metadata[key]):
            raise ValueError(
                f"{name}: {key} {quoted(text)} is not one line of at most {MAX_NAME} characters; correct the metadata "
                "of the file, or save the vector again."
            )


def _check_tensor(name: str, key: str, entry: object, version: str) -> int:
    """Number of elements of a tensor of the header; ValueError where the format knows none of that name and kind."""
    dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise ValueError(f"{name} is not a readable safetensors file (its header has no shapes); download it again.")
    of_site = _SITE_TENSOR.fullmatch(key)
    if of_site and int(of_site[1] or 0) < MAX_SITES and (version != "1" or key == "direction"):
        _check_dtype(name, key, dtype)
        if len(shape) != 3 or not (0 < shape[0] <= MAX_CHANNELS and min(shape[1:]) > 0 and max(shape[1:]) <= MAX_SIDE):
            raise ValueError(f"{name}: '{key}' has shape {quoted(shape)}; [C, H, W] of a U-Net bottleneck is needed.")
    elif (of_response := _RESPONSE_TENSOR.fullmatch(key)) and int(of_response[2] or 0) < MAX_SITES and version == "3":
        _check_dtype(name, key, dtype)
        channels, rank = (shape if of_response[1] == "up" else shape[::-1]) if len(shape) == 2 else (0, 0)
        if not (0 < channels <= MAX_CHANNELS and 0 < rank <= MAX_RANK):
            raise ValueError(
                f"{name}: '{key}' has shape {quoted(shape)}; a matrix of C by R, R at most {MAX_RANK}, is needed."
            )
    elif _STATE_TENSOR.fullmatch(key):
        if dtype not in _STATE_DTYPES or len(shape) > MAX_STATE_DIMENSIONS or min(shape, default=1) < 1:
            raise ValueError(
                f"{name}: '{key}' is {quoted(dtype)} {quoted(shape)}, which no state of a discovery is; "
                "resume from another file, or discover anew."
            )
    else:
        raise ValueError(
            f"{name} has a tensor {quoted(key)}, which format version {version} does not know; save the vector again, "
            "or update the pack."
        )
    return math.prod(shape)


def _check_dtype(name: str, key: str, dtype: str) -> None:
    if dtype not in _VECTOR_DTYPES:
        raise ValueError(f"{name}: '{key}' is {quoted(dtype)}; float32 or float16 is needed.")
