"""Vectors on disk: the pack's own format, the paper's, the model folder, and autosave."""

from .autosave import PartialFile
from .folder import FOLDER_KIND, find_vector, list_vectors, new_vector_path, register_folder
from .paper_file import import_paper_concept
from .vector_file import load_concept, save_concept

__all__ = [
    "FOLDER_KIND",
    "PartialFile",
    "find_vector",
    "import_paper_concept",
    "list_vectors",
    "load_concept",
    "new_vector_path",
    "register_folder",
    "save_concept",
]
