"""Where concept vectors live on disk: the model folder kind `concept_vectors`."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .vector_file import EXTENSIONS, FOLDER_KIND, free_path

PACK_VECTORS = Path(__file__).parent.parent / "vectors"
PARTIAL = "partial"


def register_folder() -> None:
    """Tell ComfyUI of `models/concept_vectors`, where Save writes, and of the pack's own `vectors/`."""
    folder_paths.add_model_folder_path(FOLDER_KIND, str(Path(folder_paths.models_dir) / FOLDER_KIND), is_default=True)
    folder_paths.add_model_folder_path(FOLDER_KIND, str(PACK_VECTORS))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER_KIND]
    folder_paths.folder_names_and_paths[FOLDER_KIND] = (paths, set(EXTENSIONS))


def list_vectors(suffix: str) -> list[str]:
    """Names of the files with that suffix, relative to their folder, as combo boxes show them."""
    return [name for name in folder_paths.get_filename_list(FOLDER_KIND) if name.endswith(suffix)]


def find_vector(name: str, input_name: str) -> Path:
    """Full path of a listed file.

    Raises:
        ValueError: there is no such file, or the name leads out of the folders.
    """
    path = folder_paths.get_full_path(FOLDER_KIND, name)
    folders = [Path(folder).resolve() for folder in folder_paths.get_folder_paths(FOLDER_KIND)]
    if path is None or not any(Path(path).resolve().is_relative_to(folder) for folder in folders):
        raise ValueError(f"{input_name}: '{name}' is not in {folders[0]}; put the file there, or choose another one.")
    return Path(path)


def new_vector_path(prefix: str) -> Path:
    """A path for a new vector in the user's folder; never one that exists."""
    return free_path(Path(folder_paths.get_folder_paths(FOLDER_KIND)[0]), prefix)
