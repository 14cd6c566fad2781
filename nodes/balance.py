"""Concept Balance."""

from comfy_api.latest import io

from ..hspace.viewing import balance_chart, measure_balance, parse_labels
from .base import CATEGORY, SearchableNode, schema


class ConceptBalance(SearchableNode):
    """Counts what a batch of images shows, and how far that is from even."""

    SEARCH_ALIASES = ("h-space", "fair", "bias", "diversity", "count", "measure")

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceConceptBalance",
            display_name="Concept Balance",
            category=CATEGORY,
            description="Counts which of your labels each image fits best according to CLIP, and reports how far "
            "the batch is from even as the paper's deviation ratio: 0 if all labels are equally "
            "frequent, 1 if there is only one.",
            has_intermediate_output=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The images to count. More give a more reliable figure: 8 say little, 100 a lot. CLIP "
                    "sees the centre square of each.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="CLIP text encoder with its text projection. SD 1.x and SDXL checkpoints lack it for "
                    "CLIP-L: use CLIPLoader with model.safetensors of openai/clip-vit-large-patch14.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The vision half of the same CLIP, from Load CLIP Vision: CLIP-ViT-L/14 for CLIP-L.",
                ),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="a photo of a man\na photo of a woman",
                    tooltip="One label per line, at least two; each image gets the one it fits best. Word them alike: "
                    "every difference counts, not only the intended one.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="Counts, deviation, what chance alone would give, images that could not be judged, and "
                    "the verdict on each of the first 64.",
                ),
                io.Image.Output(
                    display_name="chart", tooltip="Share of each label as bars, with a line at an even share."
                ),
                io.Float.Output(
                    display_name="deviation",
                    tooltip="Deviation ratio of the judged images: 0 if all labels are equally frequent, 1 if there "
                    "is only one.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, clip, clip_vision, labels) -> io.NodeOutput:
        balance = measure_balance(images, clip, clip_vision, parse_labels(labels))
        report = balance.report()
        return io.NodeOutput(report, balance_chart(balance), balance.deviation, ui={"text": [report]})


NODES = [ConceptBalance]
