"""Discover Concept Direction."""

import logging
from collections.abc import Callable
from functools import partial

import torch
from comfy_api.latest import io

from ..hspace.concepts import MAX_RANK
from ..hspace.discovery import METHODS, SITES, DiscoverySettings, PromptPairs, check_name, discover
from ..hspace.files import safe_concept_name
from ..hspace.prompts import noted_texts, prompt_texts
from ..hspace.viewing import loss_plot
from .base import CATEGORY, ConceptVector, SearchableNode, schema
from .editor import NodeObserver, input_types, validated


class DiscoverConcept(SearchableNode):
    """Learns one vector in h-space from what a base prompt leaves out."""

    SEARCH_ALIASES = ("h-space", "slider", "bias", "train", "learn", "find", "direction", "responsible")
    ADVANCED = (
        "learning_rate",
        "guidance",
        "preview_every",
        "calibrate",
        "gradient_checkpointing",
        "spatial_mean",
        "response_rank",
    )

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="HSpaceDiscoverConcept",
            display_name="Discover Concept Direction",
            category=CATEGORY,
            description="Finds the vector that stands for a concept while the model stays frozen: it learns what the "
            "base prompt ('a doctor') omits from the concept prompt ('a woman doctor'). With several pairs, joined "
            "with Conditioning (Combine) in the same order on both sides, the vector generalises to other prompts.",
            essentials_category=CATEGORY,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to learn on. It is not changed. LoRAs and other patches take effect."
                ),
                io.Conditioning.Input(
                    "concept", tooltip="Prompt that names the concept: 'a woman doctor'. May hold several prompts."
                ),
                io.Conditioning.Input(
                    "base",
                    tooltip="The same prompt without the concept: 'a doctor'. As many prompts, in the same order.",
                ),
                io.String.Input("name", default="concept", tooltip="Name of the concept."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="distilled",
                    tooltip="distilled: learns from the model's own prediction under the concept prompt, in minutes. "
                    "paper: the published protocol (1000 images, 2500 steps), in hours.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Optimiser steps. 0: the method's own number, 125 (distilled) or 2500 (paper). More steps "
                    "give a cleaner vector and take longer.",
                ),
                io.Int.Input(
                    "batch_size", default=8, min=1, max=256, tooltip="Images per step. Lower it if memory runs out."
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.1,
                    min=0.0001,
                    max=10.0,
                    step=0.001,
                    tooltip="distilled: step size relative to the activations, so one value suits every model. paper: "
                    "absolute step size.",
                ),
                io.Float.Input(
                    "guidance",
                    default=3.0,
                    min=0.1,
                    max=30.0,
                    step=0.1,
                    tooltip="How far the teacher goes beyond the concept prompt (distilled only). Higher gives a "
                    "stronger, coarser vector.",
                ),
                io.Int.Input(
                    "sample_count",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Images to sample, if no samples are connected. 0: the method's own number, 112 "
                    "(distilled) or 1000 (paper).",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Width of those images. 0: the model's native size, 512, 768 or 1024.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Height of those images. 0: the model's native size, 512, 768 or 1024.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same vector.",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="Images of the concept to learn from: a KSampler's output, or your own images through VAE "
                    "Encode. A list of latents may mix sizes. With several prompts, image i belongs to prompt "
                    "i, starting over after the last.",
                ),
                io.Conditioning.Input(
                    "avoid",
                    optional=True,
                    tooltip="What the concept must lack; images and teacher move away from it. For 'no weapon', "
                    "connect the same prompt to concept and base, and 'with a weapon' here. One prompt, or "
                    "one per pair.",
                ),
                ConceptVector.Input(
                    "start_from",
                    optional=True,
                    tooltip="Continue from this vector: the partial one of a cancelled run, or one to refine.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=50,
                    min=0,
                    max=10000,
                    optional=True,
                    tooltip="Steps between previews: two images without the vector (top), the same seeds with it "
                    "(bottom). 0 shows the images being learnt on instead.",
                ),
                io.Boolean.Input(
                    "calibrate",
                    default=True,
                    optional=True,
                    tooltip="Scales the finished vector, down or up to 1.6 times, so that at strength 1 it goes as far "
                    "as the concept prompt itself, unless images break before (distilled only).",
                ),
                io.Boolean.Input(
                    "measure_range",
                    default=False,
                    optional=True,
                    tooltip="Afterwards, samples a few images at several strengths and records the strength from "
                    "which the concept shows and the strength at which images begin to break. Takes about a "
                    "quarter longer.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    optional=True,
                    tooltip="Stores less in memory while learning and recomputes the rest: for cards that run out of "
                    "memory. Finds the same vector, more slowly.",
                ),
                io.Boolean.Input(
                    "spatial_mean",
                    default=False,
                    optional=True,
                    tooltip="Keeps one value per channel, the mean over the map, instead of a map: the same change "
                    "wherever the subject is, and gentler on the rest of the image. Loses what depends on "
                    "position. For bottleneck sites only.",
                ),
                io.Combo.Input(
                    "sites",
                    options=list(SITES),
                    default="auto",
                    optional=True,
                    tooltip="Where the vector acts. decoder: one value per channel at every block of the decoder, "
                    "which reaches further in models whose decoder hears the prompt, as that of SD does. bottleneck: "
                    "a map in h-space, as published. auto: decoder for distilled, bottleneck for paper.",
                ),
                io.Conditioning.Input(
                    "empty",
                    optional=True,
                    tooltip="The empty prompt, from a CLIP Text Encode without text: the negative of all images that "
                    "discovery samples. Without it zeros are used, which SDXL was trained with, and SD 1.x and 2.x "
                    "were not.",
                ),
                io.Conditioning.Input(
                    "keep",
                    optional=True,
                    tooltip="Prompts whose images the vector must leave as they are, about as many as there are pairs: "
                    "for a concept that takes something away, subjects that have none of it (distilled only).",
                ),
                io.Int.Input(
                    "response_rank",
                    default=16,
                    min=0,
                    max=MAX_RANK,
                    optional=True,
                    tooltip="Lets what is added depend on the image: beside its constants, the vector gets a linear "
                    "map of this rank at each site, which tells apart whom it has to change much and whom little. "
                    "0: the same is added to every image, in a smaller file (distilled only).",
                ),
            ],
            outputs=[
                ConceptVector.Output(display_name="concept", tooltip="The vector. Connect to Save and to Apply."),
                io.Image.Output(display_name="loss_plot", tooltip="Loss over steps. It should fall and level out."),
                io.Latent.Output(
                    display_name="samples",
                    is_output_list=True,
                    tooltip="The images the vector was learnt on. Decode them to check that they show the concept.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The last preview: the same seeds plain (top) and steered (bottom), coarsely decoded. "
                    "Connect to preview of Save.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, name=None):
        # A list of one, as inputs of this node are; None where another node gives it.
        return validated(cls, lambda: check_name(name[0]) if name and name[0] is not None else None)

    @classmethod
    def execute(cls, concept, base, samples=None, avoid=None, empty=None, keep=None, **inputs) -> io.NodeOutput:
        values = {key: single(key, listed) for key, listed in inputs.items()}
        model, start_from = values.pop("model"), values.pop("start_from", None)
        preview_every = values.pop("preview_every", 50)
        if values["name"].strip():
            values["name"] = safe_concept_name(values["name"])
        settings = DiscoverySettings(**values)
        node_id = cls.hidden.unique_id
        roles = {"concept": concept, "base": base, "avoid": avoid or [], "keep": keep or []}
        prompts = {role: joined(entries) for role, entries in roles.items()}
        noted = {f"{role}_prompt": noted_texts(entries) for role, entries in prompts.items() if entries}
        texts = prompt_texts(cls.hidden.prompt, node_id, input_types)
        texts |= {key: text for key, text in noted.items() if text}
        observer = NodeObserver(model, settings.steps, settings.name, preview_every, node_id, settings.judgements)
        avoid, keep = (prompts[role] or None for role in ("avoid", "keep"))
        discovery = discover(
            model,
            PromptPairs(prompts["concept"], prompts["base"], avoid, empty and joined(empty), texts, keep),
            settings,
            samples and [latents_of(batch) for batch in samples],
            start_from,
            observer,
        )
        latents = [{"samples": batch} for batch in discovery.samples]
        plot = drawn(partial(loss_plot, discovery.losses, settings.name))
        return io.NodeOutput(discovery.vector, plot, latents, drawn(observer.picture))


def drawn(draw: Callable[[], torch.Tensor]) -> torch.Tensor:
    """IMAGE that `draw` makes; a black one, and a line in the log, where it fails: the vector must come out."""
    try:
        return draw()
    except Exception:
        logging.exception("[H-Space Steering] A picture of the discovery could not be drawn.")
        return torch.zeros(1, 64, 64, 3)


def single(name: str, values: list):
    """The value of an input that may not be a list."""
    if len(values) != 1:
        raise ValueError(
            f"{name}: {len(values)} values came in as a list, and discovery finds one vector at a time. Only "
            "samples and the prompts may be lists; use a node for each value."
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


NODES = [DiscoverConcept]
