"""Label Strip."""

from comfy_api.latest import io

from ..hspace.viewing import label_strips
from .base import CATEGORY, SearchableNode


class LabelStrip(SearchableNode):
    """Images side by side, each over the concepts and strengths it was steered with."""

    SEARCH_ALIASES = ("h-space", "slider", "grid", "caption", "annotate", "compare")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceLabelStrip",
            display_name="Label Strip",
            category=CATEGORY,
            description="Lays the images of a batch side by side and writes under each how it was steered: the "
            "strengths of a Sweep, or the concept allocated by Choose Concept per Image.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The batch sampled with the steered model, in order. Many or wide images make several "
                    "rows. A list of single images is labelled as one batch.",
                ),
                io.String.Input(
                    "assignment",
                    force_input=True,
                    tooltip="From the Apply H-Space Steering node that steered these images. Texts of several Apply "
                    "nodes can be joined, one below the other.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="strip",
                    is_output_list=True,
                    tooltip="One picture on white with all images and their labels.",
                )
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, images, assignment) -> io.NodeOutput:
        return io.NodeOutput(label_strips(images, assignment))


NODES = [LabelStrip]
