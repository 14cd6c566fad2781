"""Strengths that differ between the images of a batch: swept or drawn."""

from comfy_api.latest import io

from ..hspace.concepts import Sweep, Varied
from .base import CATEGORY, ConceptVector, SearchableNode, factor_input
from .compose import CONCEPT_OUTPUT


class SweepConcept(SearchableNode):
    """Interpolation strips: the strength moves along the batch."""

    SEARCH_ALIASES = ("h-space", "slider", "interpolate", "strip", "range")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceSweepConcept",
            display_name="Sweep Concept Strength",
            category=CATEGORY,
            description="Varies the strength evenly along the batch, from the first image to the last: a strip "
            "that shows what a concept does. To compare images, give them all the same noise: set "
            "Latent Batch Seed Behavior to 'fixed'.",
            inputs=[
                ConceptVector.Input("concept", tooltip="The concept to sweep."),
                factor_input(
                    "from",
                    0.0,
                    "Factor for the first image of the batch, and for a single image.",
                ),
                factor_input(
                    "to",
                    2.0,
                    "Factor for the last image of the batch. Apply's strength multiplies both.",
                ),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )

    @classmethod
    def execute(cls, concept, to, **start) -> io.NodeOutput:
        return io.NodeOutput(Sweep(concept, start["from"], to))


class VaryStrength(SearchableNode):
    """Each image gets a strength of its own, drawn from a range."""

    SEARCH_ALIASES = ("h-space", "slider", "random", "range", "diversity", "variation")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceVaryStrength",
            display_name="Vary Concept Strength",
            category=CATEGORY,
            description="Draws a strength for each image of the batch from a range, so that a batch shows the concept "
            "in every degree. Apply's 'assignment' says which image got which strength.",
            inputs=[
                ConceptVector.Input("concept", tooltip="The concept whose strength varies."),
                factor_input(
                    "minimum",
                    0.0,
                    "Lowest factor that an image can get. Below 0 steers away from the concept.",
                ),
                factor_input(
                    "maximum",
                    1.5,
                    "Highest factor that an image can get. Apply's strength multiplies both.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives an image the same strength, whatever the batch size. With batch size "
                    "1, set it to increment or randomize.",
                ),
            ],
            outputs=[ConceptVector.Output(display_name="concept", tooltip=CONCEPT_OUTPUT)],
        )

    @classmethod
    def execute(cls, concept, minimum, maximum, seed) -> io.NodeOutput:
        return io.NodeOutput(Varied(concept, minimum, maximum, seed))


NODES = [SweepConcept, VaryStrength]
