"""Vectors on disk: the pack's own format, the paper's, names, the model folder, and autosave."""

from .autosave import PartialFile
from .folder import FOLDER_KIND, find_vector, list_vectors, register_folder, vector_path
from .names import is_name, renamed, safe_concept_name, safe_name, safe_prefix
from .paper_file import PAPER_FAMILY, import_paper_concept
from .preview import save_preview
from .vector_file import load_concept, save_concept

__all__ = [
    "FOLDER_KIND",
    "PAPER_FAMILY",
    "PartialFile",
    "find_vector",
    "import_paper_concept",
    "is_name",
    "list_vectors",
    "load_concept",
    "register_folder",
    "renamed",
    "safe_concept_name",
    "safe_name",
    "safe_prefix",
    "save_concept",
    "save_preview",
    "vector_path",
]
