"""Loss plot, prompt texts for the metadata, and the progress bar with its preview."""

import comfy.utils
import pytest
import torch
from hspace_steering.nodes.editor import NodeObserver

from helpers import random_vector, tiny_model
from hspace.discovery import Progress
from hspace.prompts import prompt_texts
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
