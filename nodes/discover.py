"""Discover Concept Direction."""

import logging
from functools import partial

from comfy_api.latest import io

from ..hspace.autosave import PartialFile
from ..hspace.discovery import discover
from ..hspace.monitor import ProgressMonitor, show_on_node
from ..hspace.plots import loss_plot
from ..hspace.prompt_trace import prompt_texts
from ..hspace.settings import METHODS, DiscoverySettings
from ..hspace.strength_range import range_text
from .types import CATEGORY, ConceptVector, SearchableNode


class DiscoverConcept(SearchableNode):
    """Learns one vector in h-space from what a base prompt leaves out."""

    SEARCH_ALIASES = ("h-space", "slider", "bias", "train", "learn", "find", "direction", "responsible")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceDiscoverConcept",
            display_name="Discover Concept Direction",
            category=CATEGORY,
            description="Finds the vector that stands for a concept, with the model frozen: it learns what the base "
            "prompt ('a doctor') leaves out of the concept prompt ('a woman doctor'). Several pairs, joined with "
            "Conditioning (Combine) in the same order on both sides, make a vector that carries over to other prompts.",
            inputs=[
                io.Model.Input("model", tooltip="The model to learn on. It is not changed. LoRAs and patches count."),
                io.Conditioning.Input("concept", tooltip="Prompt that says the concept: 'a woman doctor'. May hold several."),
                io.Conditioning.Input("base", tooltip="The same prompt without it: 'a doctor'. As many, in the same order."),
                io.String.Input("name", default="concept", tooltip="What to call the concept."),
                io.Combo.Input("method", options=list(METHODS), default="distilled", tooltip="distilled: learns from the "
                               "model's own prediction under the concept prompt, in minutes. paper: the published "
                               "protocol (use 1000 samples, 2500 steps), in hours."),
                io.Int.Input("steps", default=125, min=1, max=100000, tooltip="Optimiser steps. More is cleaner and slower."),
                io.Int.Input("batch_size", default=8, min=1, max=256, tooltip="Images a step. Lower it if memory runs out."),
                io.Float.Input("learning_rate", default=0.1, min=0.0001, max=10.0, step=0.001, tooltip="distilled: step "
                               "size relative to the activations, the same for every model. paper: absolute."),
                io.Float.Input("guidance", default=3.0, min=0.1, max=30.0, step=0.1, tooltip="How far beyond the concept "
                               "prompt the teacher goes (distilled only). Higher makes a stronger, coarser vector."),
                io.Int.Input("sample_count", default=56, min=1, max=10000, tooltip="Images to draw while learning, if no "
                             "samples are connected."),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of those images; the model's native size is best."),
                io.Int.Input("height", default=512, min=64, max=4096, step=8, tooltip="Of those images; the model's native size is best."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                             tooltip="Same seed, same vector."),
                io.Latent.Input("samples", optional=True, tooltip="Images of the concept to learn from: a KSampler's "
                                "output, or your own pictures through VAE Encode; a list of latents may mix sizes. With "
                                "several prompts, image i belongs to prompt i and starts again after the last."),
                io.Conditioning.Input("avoid", optional=True, tooltip="What the concept must lack: images and teacher are "
                                      "led away from it. For 'no weapon' connect the same prompt to concept and base, and "
                                      "'with a weapon' here. One prompt, or one for each pair."),
                ConceptVector.Input("start_from", optional=True, tooltip="Continue from this vector: a partial one of a "
                                    "cancelled run, or one to refine."),
                io.Int.Input("preview_every", default=50, min=0, max=10000, optional=True, tooltip="Steps from one preview "
                             "to the next: two images without the vector above, the same seeds with it below. 0 shows "
                             "what is being learnt on instead."),
                io.Boolean.Input("calibrate", default=True, optional=True, tooltip="Scale a finished vector down where it "
                                 "would go further than the concept prompt itself, so that strength 1 is right "
                                 "(distilled only)."),
                io.Boolean.Input("measure_range", default=False, optional=True, tooltip="Afterwards, draw a few images at "
                                 "several strengths and note from which strength the concept is there and from which "
                                 "images begin to break. Takes a quarter longer."),
                io.Boolean.Input("gradient_checkpointing", default=False, optional=True, tooltip="Keep less in memory while "
                                 "learning and compute it again: for cards that run out of memory. The same vector, more "
                                 "slowly."),
                io.Boolean.Input("spatial_mean", default=False, optional=True, tooltip="Keep one value a channel, the mean over "
                                 "the map, instead of a map: the same change wherever the subject is, and gentler on the "
                                 "rest of the image. Loses what depends on the place."),
            ],
            outputs=[
                ConceptVector.Output(display_name="concept", tooltip="The vector. Connect to Save and to Apply."),
                io.Image.Output(display_name="loss_plot", tooltip="Loss over steps. It should fall and level out."),
                io.Latent.Output(display_name="samples", is_output_list=True, tooltip="The images it was learnt on. Decode them to check that "
                                 "they show the concept."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, concept, base, samples=None, avoid=None, **inputs) -> io.NodeOutput:
        given = {key: single(key, values) for key, values in inputs.items()}
        model, start_from = given.pop("model"), given.pop("start_from", None)
        preview_every = given.pop("preview_every", 50)
        settings = DiscoverySettings(**given)
        monitor, file = ProgressMonitor(model, settings.steps), PartialFile(settings.name)
        found = discover(
            model, joined(concept), joined(base), settings,
            samples=samples and [latents_of(batch) for batch in samples],
            avoid=avoid and joined(avoid),
            start_from=start_from,
            prompts=prompt_texts(cls.hidden.prompt, cls.hidden.unique_id),
            listener=monitor,
            keep_partial=partial(keep_partial, file=file, node_id=cls.hidden.unique_id),
            partial_file=file,
            compare_every=preview_every if monitor.shows_pictures else 0,
        )  # fmt: skip
        if text := range_text(found.direction.metadata):
            show_on_node(f"{settings.name}: {text}", cls.hidden.unique_id)
        latents = [{"samples": batch} for batch in found.samples]
        return io.NodeOutput(found.direction, loss_plot(found.losses, settings.name), latents)


def single(name: str, values: list):
    """The value of an input that is none of those that may be lists."""
    if len(values) != 1:
        raise ValueError(
            f"{name}: {len(values)} values came in as a list, and discovery finds one vector at a time. Only samples and the "
            "prompts may be lists; use a node for each value."
        )
    return values[0]


def joined(conditionings: list[list]) -> list:
    """The prompts of a list of conditionings as one, as Conditioning (Combine) joins them."""
    return [entry for conditioning in conditionings for entry in conditioning]


def latents_of(samples: dict):
    """The values of a LATENT; ValueError where a noise mask says that only a part of them is meant."""
    if samples.get("noise_mask") is not None:
        raise ValueError(
            "samples: these latents carry a noise mask, and discovery learns from whole images. Connect them from "
            "before Set Latent Noise Mask, or encode with plain VAE Encode."
        )
    return samples["samples"]


def keep_partial(direction, file, node_id=None):
    """Save what a cancelled or failed run has found, and say where: in the log and on the node."""
    path = file.save(direction)
    message = (
        f"Discovery of '{direction.name}' stopped after {direction.metadata['steps']} steps. What it has found is in "
        f"{path}; load it and connect it to start_from to go on."
    )
    logging.warning("[H-Space Steering] %s", message)
    show_on_node(message, node_id)


NODES = [DiscoverConcept]
