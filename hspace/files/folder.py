"""The model folder kind `concept_vectors`, and the names of the files in it."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

FOLDER_KIND = "concept_vectors"
EXTENSIONS = frozenset({".safetensors", ".pth"})
PACK_VECTORS = Path(__file__).parent.parent.parent / "vectors"


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
