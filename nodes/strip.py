"""Label Strip."""

from comfy_api.latest import io

from ..hspace.strip import label_strip
from .types import CATEGORY, SearchableNode


class LabelStrip(SearchableNode):
    """Images side by side, each over the concepts and strengths it was given."""

    SEARCH_ALIASES = ("h-space", "slider", "grid", "caption", "annotate", "compare")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceLabelStrip",
            display_name="Label Strip",
            category=CATEGORY,
            description="Lays the images of a batch side by side and writes under each what it was steered with: the strengths "
            "of a Sweep, or what each image drew from Choose Concept per Image.",
            inputs=[
                io.Image.Input("images", tooltip="The batch that was sampled with the steered model, in its order. Many or "
                               "wide images make several rows."),
                io.String.Input("assignment", force_input=True, tooltip="From Apply H-Space Steering, the one that steered "
                                "these images. Texts of several Apply nodes can be joined, one below the other."),
            ],
            outputs=[io.Image.Output(display_name="strip", tooltip="One picture: all images with their labels, on white.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, assignment) -> io.NodeOutput:
        return io.NodeOutput(label_strip(images, assignment))


NODES = [LabelStrip]
