"""Save, load, import and inspect concept vectors."""

import logging
from collections.abc import Callable

from comfy_api.latest import io

from ..hspace.concepts import Vector, quoted
from ..hspace.files import (
    PAPER_FAMILY,
    find_vector,
    import_paper_concept,
    list_vectors,
    load_concept,
    renamed,
    safe_concept_name,
    safe_prefix,
    save_concept,
    save_preview,
    vector_path,
)
from ..hspace.viewing import (
    compare_concepts,
    inspect_concept,
    inspection_picture,
    inspection_report,
    vector_summary,
)
from .base import CATEGORY, ConceptVector, SearchableNode, schema
from .editor import show_lines_on_node, show_on_node, validated
from .wiring import other_family

LOADED, IMPORTED = ".safetensors", ".pth"
"""Suffixes of the files that the nodes read."""
NO_PTH = "put a .pth file into models/concept_vectors"


def _fingerprint(name: str | None, suffix: str) -> tuple:
    """What changes with the file, or with any file where the name is not known yet, because another node gives it."""
    names = list_vectors(suffix) if name is None else [name]
    stats = [(name, find_vector(name, "file", suffix).stat()) for name in names]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _check_file(
    cls, name: str | None, input_name: str, suffix: str, what_it_is: Callable[[str], tuple[str, str]]
) -> None:
    """Raise ValueError where the file is not there, or goes to a model of another family as far as the graph shows.

    ComfyUI checks combo values no further.

    Args:
        cls: the node.
        name: of the file; None where another node gives it.
        what_it_is: how to call the vector of a file, and its family.
    """
    if name is None:
        return
    find_vector(name, input_name, suffix)
    if cls.hidden is None:
        return
    try:
        vector, family = what_it_is(name)
    except ValueError:  # said when the node runs
        return
    if text := other_family(cls.hidden.unique_id, f"{input_name}: {quoted(vector)}", family):
        raise ValueError(text)


def _name_and_family(name: str) -> tuple[str, str]:
    vector = load_concept(find_vector(name, "concept_name", LOADED))
    return vector.name, vector.family


def _file_and_family(name: str) -> tuple[str, str]:
    return name, PAPER_FAMILY


class SaveConcept(SearchableNode):
    """Writes a vector to models/concept_vectors."""

    SEARCH_ALIASES = ("h-space", "slider", "export")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceSaveConcept",
            display_name="Save Concept Vector",
            category=CATEGORY,
            description="Saves a vector as safetensors in models/concept_vectors. An existing file is never "
            "overwritten: the new one gets a number.",
            inputs=[
                ConceptVector.Input("concept", tooltip="A single vector, from Discover, Load or Import."),
                io.String.Input(
                    "filename_prefix",
                    default="my_concept",
                    tooltip="File name without extension; 'sd15/woman' creates a subfolder.",
                ),
                io.Image.Input(
                    "preview",
                    optional=True,
                    tooltip="A picture that model libraries and managers show for the vector, from Discover or a "
                    "sampler: its first image is saved beside the vector as a PNG of the same name.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Full path of the saved file.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        # None where another node gives it.
        return validated(cls, lambda: filename_prefix is None or vector_path(filename_prefix))

    @classmethod
    def execute(cls, concept, filename_prefix, preview=None) -> io.NodeOutput:
        if not isinstance(concept, Vector):
            raise ValueError(
                f"concept: '{concept.describe()}' is a combination; a file holds one vector. Save the vectors it is "
                "made of, and combine them again after loading."
            )
        picture = None if preview is None else preview[0].cpu().numpy()
        path = save_concept(concept, vector_path(filename_prefix), overwrite=False, preview=picture)
        changes = [
            renamed(filename_prefix, safe_prefix(filename_prefix)),
            renamed(concept.name, safe_concept_name(concept.name)),
        ]
        if picture is not None and not save_preview(picture, path):
            changes.append(f"{path.stem}.png was there before, and was left as it is.")
        if changes := [change for change in changes if change]:
            show_on_node(" ".join(changes), cls.hidden.unique_id)
        return io.NodeOutput(str(path), ui={"text": [str(path), *changes]})


class LoadConcept(SearchableNode):
    """Reads a vector from models/concept_vectors or the pack's own."""

    SEARCH_ALIASES = ("h-space", "slider", "open")

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceLoadConcept",
            display_name="Load Concept Vector",
            category=CATEGORY,
            description="Loads a concept vector from models/concept_vectors, or one that comes with the pack.",
            essentials_category=CATEGORY,
            inputs=[
                io.Combo.Input(
                    "concept_name",
                    options=list_vectors(LOADED),
                    tooltip="A .safetensors file. Press R in the editor to see new files. When it has run, the node "
                    "shows the vector's name, base model, prompts and range of strengths.",
                )
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip="Connect to Apply H-Space Steering.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, concept_name=None):
        return validated(cls, lambda: _check_file(cls, concept_name, "concept_name", LOADED, _name_and_family))

    @classmethod
    def fingerprint_inputs(cls, concept_name=None):
        return _fingerprint(concept_name, LOADED)

    @classmethod
    def execute(cls, concept_name) -> io.NodeOutput:
        vector = load_concept(find_vector(concept_name, "concept_name", LOADED))
        show_lines_on_node(vector_summary(vector), cls.hidden.unique_id)
        return io.NodeOutput(vector)


class ImportConcept(SearchableNode):
    """Reads the file format that the paper's authors publish."""

    SEARCH_ALIASES = ("h-space", "slider", "pth", "paper")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceImportConcept",
            display_name="Import Concept Vector",
            category=CATEGORY,
            description="Reads a vector in the paper's published format (unet.pth, for SD 1.x), as plain tensors "
            "only. Use Save to convert it to safetensors.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_vectors(IMPORTED) or [NO_PTH],
                    tooltip="A .pth file in models/concept_vectors, preferably with its concept_dict.json next to it.",
                ),
                io.String.Input(
                    "concept_name",
                    default="0",
                    tooltip="Name from concept_dict.json, or a column number counted from 0.",
                ),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip="Connect to Save or Apply.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file=None):
        return validated(cls, lambda: _check_file(cls, file, "file", IMPORTED, _file_and_family))

    @classmethod
    def fingerprint_inputs(cls, file=None, concept_name=None):
        return _fingerprint(file, IMPORTED), concept_name

    @classmethod
    def execute(cls, file, concept_name) -> io.NodeOutput:
        node_id = cls.hidden.unique_id

        def note(text: str) -> None:
            logging.warning("Import Concept Vector: %s", text)
            show_on_node(text, node_id)

        return io.NodeOutput(import_paper_concept(find_vector(file, "file", IMPORTED), concept_name, note))


class InspectConcept(SearchableNode):
    """Says what is in a vector, in numbers and pictures."""

    SEARCH_ALIASES = ("h-space", "slider", "analyse", "norm", "compare")

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceInspectConcept",
            display_name="Inspect Concept Vector",
            category=CATEGORY,
            description="Shows a vector's size, where in the image it acts, how much of it is broad and how much "
            "may be noise, how it was found, and how similar it is to another vector.",
            has_intermediate_output=True,
            inputs=[
                ConceptVector.Input(
                    "concept",
                    tooltip="A vector, or a combination of vectors. If a combination differs between images, the most "
                    "strongly steered image counts.",
                ),
                ConceptVector.Input(
                    "compare",
                    optional=True,
                    tooltip="A second vector for the same base model, to see whether the two push the same way.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="Base model, shape, norm, shares of the energy, largest channels, how the vector was "
                    "found, and the comparison.",
                ),
                io.Image.Output(
                    display_name="picture",
                    tooltip="Energy over h-space, power spectrum and channel norms; with 'compare' also where the two "
                    "vectors agree.",
                ),
            ],
        )

    @classmethod
    def execute(cls, concept, compare=None) -> io.NodeOutput:
        report = inspection_report(concept, compare)
        comparison = None if compare is None else compare_concepts(concept, compare)
        return io.NodeOutput(report, inspection_picture(inspect_concept(concept), comparison), ui={"text": [report]})


NODES = [SaveConcept, LoadConcept, ImportConcept, InspectConcept]
