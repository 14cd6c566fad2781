"""Concept Balance."""

from comfy_api.latest import io

from ..hspace.balance import measure_balance, parse_labels
from ..hspace.plots import balance_chart
from .types import CATEGORY, SearchableNode


class ConceptBalance(SearchableNode):
    """Counts what a batch of images shows, and how far that is from even."""

    SEARCH_ALIASES = ("h-space", "fair", "bias", "diversity", "count", "measure")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceConceptBalance",
            display_name="Concept Balance",
            category=CATEGORY,
            description="Counts which of your labels each image fits best, as CLIP sees it, and says how far the batch is "
            "from even: the deviation ratio of the paper, 0 for all labels alike and 1 for one label only.",
            inputs=[
                io.Image.Input("images", tooltip="The images to count. More give a surer figure: 8 say little, 100 a lot. "
                               "CLIP sees the centre square of each."),
                io.Clip.Input("clip", tooltip="CLIP text encoder with its text projection. SD 1.x and SDXL checkpoints lack "
                              "it for CLIP-L: use CLIPLoader with model.safetensors of openai/clip-vit-large-patch14."),
                io.ClipVision.Input("clip_vision", tooltip="The vision half of the same CLIP, from Load CLIP Vision; "
                                    "CLIP-ViT-L/14 for CLIP-L."),
                io.String.Input("labels", multiline=True, default="a photo of a man\na photo of a woman",
                                tooltip="One label a line, at least two; an image gets the one it fits best. Word them alike: "
                                "any difference counts, not only the one you mean."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Counts, deviation, what chance alone would give, images that "
                                 "could not be judged, and the verdict on each of the first 64."),
                io.Image.Output(display_name="chart", tooltip="Share of each label as bars, with a line where all would be "
                                "even."),
                io.Float.Output(display_name="deviation", tooltip="0: all labels alike, 1: one label only. Of the judged "
                                "images."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, clip, clip_vision, labels) -> io.NodeOutput:
        balance = measure_balance(images, clip, clip_vision, parse_labels(labels))
        report = balance.report()
        return io.NodeOutput(report, balance_chart(balance), balance.deviation, ui={"text": [report]})


NODES = [ConceptBalance]
