"""Save, load, import and inspect concept vectors."""

from pathlib import Path

from comfy_api.latest import io

from ..hspace.concept import Direction
from ..hspace.inspection import compare_concepts, inspect_concept, inspection_report
from ..hspace.library import find_vector, list_vectors, new_vector_path
from ..hspace.monitor import show_on_node
from ..hspace.plots import inspection_picture
from ..hspace.strength_range import range_text
from ..hspace.vector_file import import_paper_direction, load_direction, save_direction
from .types import CATEGORY, ConceptVector, SearchableNode

NO_PTH = "put a .pth file into models/concept_vectors"


def _fingerprint(name: str) -> tuple[str, int, int]:
    stat = find_vector(name, "file").stat()
    return name, stat.st_mtime_ns, stat.st_size


def _missing(name: str, input_name: str) -> bool | str:
    """True where the file is there; otherwise what ComfyUI shows on the node. It checks combo values no further."""
    try:
        find_vector(name, input_name)
    except ValueError as error:
        return str(error)
    return True


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
                ConceptVector.Input("concept", tooltip="A single vector, as Discover, Load and Import give it."),
                io.String.Input("filename_prefix", default="my_concept",
                                tooltip="File name without suffix; 'sd15/woman' makes a subfolder."),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Full path of the file written.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, concept, filename_prefix) -> io.NodeOutput:
        if not isinstance(concept, Direction):
            raise ValueError(
                f"concept: '{concept.describe()}' is a combination; a file holds one vector. Save the vectors it is "
                "made of, and combine them again after loading."
            )
        path = save_direction(concept, new_vector_path(filename_prefix))
        return io.NodeOutput(str(path), ui={"text": [str(path)]})


class LoadConcept(SearchableNode):
    """Reads a vector from models/concept_vectors or the pack's own."""

    SEARCH_ALIASES = ("h-space", "slider", "open")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceLoadConcept",
            display_name="Load Concept Vector",
            category=CATEGORY,
            description="Loads a concept vector from models/concept_vectors, or one that comes with the pack.",
            inputs=[io.Combo.Input("concept_name", options=list_vectors(".safetensors"),
                                   tooltip="A .safetensors file. Press R in the editor to see new files. Where "
                                   "the file says at which strengths its vector is of use, the node shows it.")],
            outputs=[ConceptVector.Output(display_name="concept", tooltip="Connect to Apply H-Space Steering.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concept_name):
        return _missing(concept_name, "concept_name")

    @classmethod
    def fingerprint_inputs(cls, concept_name):
        return _fingerprint(concept_name)

    @classmethod
    def execute(cls, concept_name) -> io.NodeOutput:
        direction = load_direction(find_vector(concept_name, "concept_name"))
        if text := range_text(direction.metadata):
            show_on_node(f"{direction.name}: {text}", cls.hidden.unique_id)
        return io.NodeOutput(direction)


class ImportConcept(SearchableNode):
    """Reads the file format that the paper's authors publish."""

    SEARCH_ALIASES = ("h-space", "slider", "pth", "paper")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceImportConcept",
            display_name="Import Concept Vector",
            category=CATEGORY,
            description="Reads a vector from the paper's published format (unet.pth, for SD 1.x), opened as plain "
            "tensors only. Save it to have it as safetensors.",
            inputs=[
                io.Combo.Input("file", options=list_vectors(".pth") or [NO_PTH],
                               tooltip="A .pth file in models/concept_vectors, best with its concept_dict.json beside it."),
                io.String.Input("concept_name", default="0",
                                tooltip="Name from concept_dict.json, or a column number counted from 0."),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip="Connect to Save or Apply.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file):
        return _missing(file, "file")

    @classmethod
    def fingerprint_inputs(cls, file, concept_name):
        return *_fingerprint(file), concept_name

    @classmethod
    def execute(cls, file, concept_name) -> io.NodeOutput:
        return io.NodeOutput(import_paper_direction(Path(find_vector(file, "file")), concept_name))


class InspectConcept(SearchableNode):
    """Says what is in a vector, in numbers and pictures."""

    SEARCH_ALIASES = ("h-space", "slider", "analyse", "norm", "compare")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceInspectConcept",
            display_name="Inspect Concept Vector",
            category=CATEGORY,
            description="Shows what is in a concept vector: its size, where in the image it acts, how much of it is broad and "
            "how much may be noise, how it was found, and how near it is to another vector.",
            inputs=[
                ConceptVector.Input("concept", tooltip="A vector, or a combination of vectors; of one that differs between "
                                    "images, what the most strongly steered image gets."),
                ConceptVector.Input("compare", optional=True, tooltip="A second vector of the same base model, to see whether "
                                    "the two push the same way."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Base model, shape, norm, shares of the energy, largest "
                                 "channels, how it was found, and the comparison."),
                io.Image.Output(display_name="picture", tooltip="Energy over h-space, power spectrum and channel norms; with "
                                "'compare', also where the two agree."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, concept, compare=None) -> io.NodeOutput:
        report = inspection_report(concept, compare)
        comparison = None if compare is None else compare_concepts(concept, compare)
        return io.NodeOutput(report, inspection_picture(inspect_concept(concept), comparison), ui={"text": [report]})


NODES = [SaveConcept, LoadConcept, ImportConcept, InspectConcept]
