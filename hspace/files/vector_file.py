"""Read and write vectors in the pack's own format. Files come from strangers: everything is checked before it is used.

One `*.safetensors` per vector: tensor `direction` for h-space and `decoder.1`, `decoder.2` ... for further sites
(float32 or float16, `[C, H, W]` or `[C, 1, 1]`), and metadata of strings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from ..concepts import Provenance, UnfinishedVector, Vector

FORMAT = "hspace-concept-vector"
FORMAT_VERSIONS = ("1", "2")
"""1: h-space alone. 2: further tensors `decoder.1`, `decoder.2` ... for the other sites."""
MAX_SITES = 32
REQUIRED_METADATA = ("format", "format_version", "name", "base_model")
_OF_THE_FILE = ("format", "format_version", "name", "h_channels")
"""Metadata that belong to the file or to the vector itself, not to its provenance."""
MAX_BYTES = 256 * 2**20
MAX_CHANNELS, MAX_SIDE = 8192, 512


def save_concept(vector: Vector, path: Path | str) -> Path:
    """Write atomically and return the path, which gets the suffix `.safetensors`.

    An unfinished vector keeps its optimiser state as further tensors `state.*`.
    """
    path = Path(path) if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = vector.state if isinstance(vector, UnfinishedVector) else {}
    tensors = {_key(site): tensor for site, tensor in vector.tensors.items()} | {
        f"state.{key}": value.detach().cpu().float().contiguous() for key, value in state.items()
    }
    metadata = {
        **vector.provenance.to_strings(),
        "format": FORMAT,
        "format_version": FORMAT_VERSIONS[bool(vector.decoder)],
        "name": vector.name,
        "h_channels": str(vector.tensor.shape[0]),
    }
    metadata.setdefault("base_model", vector.family)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)
    return path


def load_concept(path: Path | str) -> Vector:
    """Read a vector; one whose file has optimiser state is an `UnfinishedVector`.

    Raises:
        ValueError: not such a file, or one whose size, shape, dtype or values are out of bounds.
    """
    path = Path(path)
    check_size(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_metadata(path, metadata)
            if "direction" not in file.keys():
                raise ValueError(f"{path.name}: no tensor 'direction'; this is not a concept vector of this pack.")
            sites = [site for site in range(MAX_SITES) if _key(site) in file.keys()]
            for site in sites:
                _check_shape(path, _key(site), file.get_slice(_key(site)).get_shape())
            tensors = {site: file.get_tensor(_key(site)) for site in sites}
            state = {key[len("state.") :]: file.get_tensor(key) for key in file.keys() if key.startswith("state.")}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}); download it again.") from error
    for site, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"{path.name}: '{_key(site)}' is {tensor.dtype}; float32 or float16 is needed.")
    check_finite(path, *tensors.values(), *state.values())
    texts = {key: text for key, text in metadata.items() if key not in _OF_THE_FILE}
    family, provenance = metadata["base_model"].split(":")[0], Provenance.from_strings(texts)
    vector = (tensors.pop(0), metadata["name"], family, provenance, tensors)
    return UnfinishedVector(*vector, state) if state else Vector(*vector)


def check_size(path: Path) -> None:
    """Raise ValueError where there is no file, or one that is too large to be one of vectors."""
    if not path.is_file():
        raise ValueError(f"{path.name} is not there; it was moved or deleted.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES // 2**20} MiB; it is no concept vector.")


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    missing = [key for key in REQUIRED_METADATA if not metadata.get(key)]
    if missing or metadata["format"] != FORMAT:
        raise ValueError(f"{path.name} is not a concept vector of this pack: metadata {missing or 'format'} is wrong.")
    if metadata["format_version"] not in FORMAT_VERSIONS:
        raise ValueError(
            f"{path.name} has format version {metadata['format_version']}, this pack reads "
            f"{' and '.join(FORMAT_VERSIONS)}; update "
            f"the pack."
        )


def _key(site: int) -> str:
    """Of a site's tensor in the file."""
    return "direction" if site == 0 else f"decoder.{site}"


def _check_shape(path: Path, key: str, shape) -> None:
    if len(shape) != 3 or not (0 < shape[0] <= MAX_CHANNELS and min(shape[1:]) > 0 and max(shape[1:]) <= MAX_SIDE):
        raise ValueError(f"{path.name}: '{key}' has shape {list(shape)}; [C, H, W] of a U-Net bottleneck is needed.")


def check_finite(path: Path, *tensors: torch.Tensor) -> None:
    """Raise ValueError where a tensor has a value that is not finite."""
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ValueError(f"{path.name} has values that are not finite; find or download it again.")
