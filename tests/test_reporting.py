"""Loss plot, prompt texts for the metadata, and the progress bar with its preview."""

import comfy.utils
import pytest
import torch
from hspace_steering.nodes.editor import NodeObserver, input_types

from helpers import conditioning, random_vector, tiny_model
from hspace.discovery import DiscoverySettings, Progress, PromptPairs, discover
from hspace.prompts import PROMPT_TEXT, noted_texts, prompt_texts
from hspace.viewing.plots import loss_plot


@pytest.mark.parametrize("losses", [[1.0], [1.0, 0.5, 0.25], [1 / (i + 1) for i in range(500)]])
def test_loss_plot_is_an_image(losses):
    image = loss_plot(losses, "woman")
    assert image.shape == (1, 512, 768, 3)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < 0.5 < image.max() <= 1


PROMPT = {
    "1": {"class_type": "HSpaceLoadDemoModel", "inputs": {}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a woman judge"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a woman cook"}},
    "4": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["2", 0], "conditioning_2": ["3", 0]}},
    "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a judge"}},
    "6": {"class_type": "HSpaceDiscoverConcept", "inputs": {"model": ["1", 0], "concept": ["4", 0], "base": ["5", 0]}},
}


def test_prompt_texts_follow_the_links():
    assert prompt_texts(PROMPT, "6") == {"concept_prompt": "a woman judge | a woman cook", "base_prompt": "a judge"}


def graph(*encoders, **texts):
    """Encoders in a row, combined, to Discover's concept; `texts` are nodes that make strings."""
    nodes = {**texts, **{f"e{i}": encoder for i, encoder in enumerate(encoders)}}
    combined = {f"conditioning_{i}": [f"e{i}", 0] for i in range(len(encoders))}
    nodes |= {"all": {"class_type": "ConditioningCombine", "inputs": combined}}
    return nodes | {"d": {"class_type": "HSpaceDiscoverConcept", "inputs": {"concept": ["all", 0]}}}


class WildcardEncode:
    """A node of another pack."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"populated": ("STRING", {}), "mode": (["fixed", "random"],), "lora": ("COMBO",)}}


class Broken:
    """A node of another pack whose inputs cannot be listed here."""

    @classmethod
    def INPUT_TYPES(cls):
        raise RuntimeError


SDXL = {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a woman", "text_l": "a queen", "width": 1024}}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (graph(SDXL), "a woman | a queen"),
        (
            graph(
                {"class_type": "CLIPTextEncode", "inputs": {"clip": ["x", 0], "text": ["s", 0]}},
                s={"class_type": "PrimitiveString", "inputs": {"value": "a woman"}},
            ),
            "a woman",
        ),
        (
            graph(
                {"class_type": "CLIPTextEncode", "inputs": {"text": ["c", 0]}},
                a={"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a woman"}},
                c={
                    "class_type": "StringConcatenate",
                    "inputs": {"string_a": ["a", 0], "string_b": "smiling", "delimiter": ", "},
                },
            ),
            "a woman | smiling",
        ),
        (
            graph(
                {
                    "class_type": "WildcardEncode",
                    "inputs": {"populated": "a woman", "mode": "fixed", "lora": "x.safetensors"},
                }
            ),
            "a woman",
        ),
        (graph({"class_type": "Unknown", "inputs": {"prompt_1": "a woman", "sampler": "euler"}}), "a woman"),
        (graph({"class_type": "Broken", "inputs": {"text": "a woman"}}), "a woman"),
        (
            graph(
                {"class_type": "CLIPTextEncode", "inputs": {"clip": ["l", 0], "text": "a woman"}},
                l={"class_type": "CLIPLoader", "inputs": {"clip_name": "clip_l.safetensors", "type": "sdxl"}},
            ),
            "a woman",
        ),
    ],
)
def test_prompt_texts_of_every_kind_of_text_node(monkeypatch, prompt, words):
    from comfy_extras import nodes_primitive, nodes_string

    import nodes

    own = (nodes_primitive.String, nodes_primitive.StringMultiline, nodes_string.StringConcatenate)
    known = {node.define_schema().node_id: node for node in own}
    for name, node in (known | {"WildcardEncode": WildcardEncode, "Broken": Broken}).items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    assert prompt_texts(prompt, "d", input_types) == {"concept_prompt": words}


def test_conditionings_combined_with_themselves_note_their_words_once():
    entries = [[torch.zeros(1, 2, 3), {PROMPT_TEXT: "a woman"}]] * 2**10
    assert noted_texts(entries) == "a woman"


def test_prompt_texts_survive_loops_and_absence():
    looped = {"6": {"inputs": {"concept": ["7", 0]}}, "7": {"inputs": {"conditioning": ["7", 0], "text": "a"}}}
    assert prompt_texts(looped, "6") == {"concept_prompt": "a"}
    assert prompt_texts(None, None) == {}


def test_monitor_moves_the_bar_and_shows_a_picture(monkeypatch):
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *values, **_: seen.append(values))
    states = torch.randn(2, 4, 16, 16)
    NodeObserver(tiny_model(), 10, "test", 50, None).step(Progress(3, 10, 0.5, states, random_vector))
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    NodeObserver(tiny_model(), 10, "test", 50, None).step(Progress(4, 10, 0.4, states, random_vector))
    (value, total, (kind, image, _)), (_, _, nothing) = seen
    assert (value, total, kind, image.size, nothing) == (3, 10, "JPEG", (16, 16), None)


def test_the_bar_moves_while_the_learnt_vector_is_judged(monkeypatch):
    pairs = PromptPairs(conditioning(1), conditioning(2))
    settings = DiscoverySettings("test", steps=16, batch_size=8, learning_rate=3.0, width=64, height=64,
                                 measure_range=True)  # fmt: skip
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *values, **_: seen.append(values))
    observer = NodeObserver(tiny_model(), 16, "test", 0, None, settings.judgements)
    with torch.inference_mode():
        discover(tiny_model(), pairs, settings, observer=observer)
    values, totals = [value for value, *_ in seen], {total for _, total, *_ in seen}
    assert totals == {16 + 5 * (3 + 10 - 1)}
    assert values[:17] == [*range(1, 17), 21]
    assert values[16:] == list(range(21, values[-1] + 1, 5))
    assert 16 + 5 * 4 <= values[-1] <= totals.pop()


@pytest.mark.parametrize(
    ("changes", "judgements"),
    [
        ({}, 3),
        ({"response_rank": 0}, 0),
        ({"response_rank": 0, "measure_range": True}, 10),
        ({"calibrate": False}, 0),
        ({"method": "paper", "measure_range": True}, 10),
        ({"measure_range": True}, 12),
    ],
)
def test_judgements_that_the_bar_counts_on(changes, judgements):
    assert DiscoverySettings("test", **changes).judgements == judgements
