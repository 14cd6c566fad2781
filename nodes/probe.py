"""Probe Concepts, Probe Report."""

from comfy_api.latest import io

from ..hspace.steering import END_PERCENT, find_reading, probe_concepts
from ..hspace.viewing import probe_chart, probe_table
from .base import CATEGORY, ConceptVector, SearchableNode, schema
from .editor import check_known_window, validated

ConceptProbe = io.Custom("CONCEPT_PROBE")
MOST_CONCEPTS = 6


class ProbeConcepts(SearchableNode):
    """Measures how much of a concept a model puts into what it samples."""

    SEARCH_ALIASES = ("h-space", "measure", "bias", "interpret", "inspect", "concept", "score")

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceProbe",
            display_name="Probe Concepts",
            category=CATEGORY,
            description="Measures while a model samples how much of a concept it puts into each image, "
            "without changing a pixel: how much 'woman' is in 'a doctor'? Connect the model to a sampler and both to "
            "Probe Report.",
            inputs=[
                io.Model.Input("model", tooltip="The model to look into, steered or not. It is cloned."),
                ConceptVector.Input(
                    "concept_1",
                    tooltip="What to look for, found on the same base model. A contrast from Add Concepts, woman x 1 "
                    "and man x -1, tells most.",
                ),
                *[
                    ConceptVector.Input(
                        f"concept_{number}",
                        optional=True,
                        tooltip="Another one to look for. Each is measured by itself and takes two more evaluations of "
                        "the model at a probed step.",
                    )
                    for number in range(2, MOST_CONCEPTS + 1)
                ],
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Where in sampling to begin to look; 0 is pure noise.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=END_PERCENT,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Where to stop looking. What an image shows is decided early; later steps cost time and "
                    "tell little more.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="A clone that samples the same images and is measured meanwhile."),
                ConceptProbe.Output(display_name="probe", tooltip="Connect to Probe Report."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start_percent=0.0, end_percent=END_PERCENT):
        return validated(cls, lambda: check_known_window(start_percent, end_percent))

    @classmethod
    def execute(cls, model, concept_1, start_percent=0.0, end_percent=END_PERCENT, **others) -> io.NodeOutput:
        concepts = [concept_1, *(others.get(f"concept_{number}") for number in range(2, MOST_CONCEPTS + 1))]
        found = [concept for concept in concepts if concept is not None]
        return io.NodeOutput(*probe_concepts(model, found, start_percent, end_percent))


class ProbeReport(SearchableNode):
    """Shows what a probe found in one sampling run."""

    SEARCH_ALIASES = ("h-space", "measure", "bias", "interpret", "chart", "score")

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceProbeReport",
            display_name="Probe Report",
            category=CATEGORY,
            description="What Probe Concepts measured in the run that made these latents: a chart over the steps, a "
            "table, and a score for each image.",
            has_intermediate_output=True,
            inputs=[
                ConceptProbe.Input("probe", tooltip="From Probe Concepts."),
                io.Latent.Input(
                    "latent",
                    tooltip="Straight from the sampler that got the probed model. Several samplers need a report each.",
                ),
                io.Int.Input(
                    "scores_of",
                    default=1,
                    min=1,
                    max=MOST_CONCEPTS,
                    optional=True,
                    tooltip="The number of the concept whose scores go out: 1 for the first that is connected.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="chart",
                    tooltip="A line for each concept over the steps of sampling: the mean over the images, in a band "
                    "that holds the middle 80 % of them.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="Scores of the images for each concept, tab-separated, with mean and spread.",
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="One number an image, in units of strength: 1 looks as if steered with strength 1, -1 as "
                    "if steered away.",
                ),
            ],
        )

    @classmethod
    def execute(cls, probe, latent, scores_of=1) -> io.NodeOutput:
        reading = find_reading(probe.content, latent["samples"])
        if not 1 <= scores_of <= len(reading.names):
            raise ValueError(
                f"scores_of: there is no concept {scores_of}; {len(reading.names)} are probed. Give a number from 1 to "
                f"{len(reading.names)}."
            )
        table = probe_table(reading.names, reading.scores)
        chart = probe_chart(reading.names, reading.steps)
        return io.NodeOutput(chart, table, reading.scores[:, scores_of - 1].tolist(), ui={"text": [table]})


NODES = [ProbeConcepts, ProbeReport]
