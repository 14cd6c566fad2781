"""The model folder kind `concept_vectors`, and the files in it."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import folder_paths

from ..concepts import quoted
from .names import safe_prefix

FOLDER_KIND = "concept_vectors"
EXTENSIONS = frozenset({".safetensors", ".pth"})
PACK_VECTORS = Path(__file__).parent.parent.parent / "vectors"


def register_folder() -> None:
    """Tell ComfyUI of `models/concept_vectors` and of the pack's own `vectors/`.

    Folders that the user names in `extra_model_paths.yaml` are there already and stay first: Save writes to the first.
    """
    for folder in (Path(folder_paths.models_dir) / FOLDER_KIND, PACK_VECTORS):
        folder_paths.add_model_folder_path(FOLDER_KIND, str(folder))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER_KIND]
    folder_paths.folder_names_and_paths[FOLDER_KIND] = (paths, set(EXTENSIONS))


def list_vectors(suffix: str) -> list[str]:
    """Names of the files with that suffix, relative to their folder, as combo boxes show them.

    What macOS leaves beside files (`._woman.safetensors`) is no vector, and a name that is no text cannot be sent to an
    editor; neither is listed.
    """
    names = folder_paths.get_filename_list(FOLDER_KIND)
    return [
        name
        for name in names
        if _suffix(name) == suffix and not PurePath(name).name.startswith("._") and _is_text(name)
    ]


def find_vector(name: str, input_name: str, suffix: str) -> Path:
    """Full path of a file with that suffix in one of the folders, whether or not links lead out of them.

    A name with the backslashes of Windows is found elsewhere too.

    Raises:
        ValueError: there is no such file, or the name leads out of the folders.
    """
    folders = folder_paths.get_folder_paths(FOLDER_KIND)
    if isinstance(name, str) and _suffix(name) == suffix and _is_inside(name):
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            if path := folder_paths.get_full_path(FOLDER_KIND, spelling):
                return Path(path)
    raise ValueError(
        f"{input_name}: {quoted(name, 200)} is no {suffix} file in {folders[0]}; put the file there, or choose another "
        "one."
    )


def vector_path(prefix: str) -> Path:
    """Path without suffix of a vector in the user's folder, each part made safe (`names.safe_name`).

    Raises:
        ValueError: the prefix is blank or leads out of the folder.
    """
    return Path(folder_paths.get_folder_paths(FOLDER_KIND)[0]) / safe_prefix(prefix)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_inside(name: str) -> bool:
    """True where a name says that the file is in the folder. Where links in the folder lead is up to its owner."""
    parts = name.replace("\\", "/").split("/")
    return ".." not in parts and parts[0] != "" and not PurePath(name).drive and "\0" not in name


def _is_text(name: str) -> bool:
    return name.isascii() or name == name.encode("utf-8", "replace").decode()
