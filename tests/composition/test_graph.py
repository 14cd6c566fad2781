"""Apply in a graph that a real server runs: what is executed again when an input changes."""

import json
import urllib.request

import pytest
import torch

from hspace.bottleneck import find_bottleneck
from hspace.concepts import Vector
from hspace.files import save_concept

MODEL, VECTOR, APPLY, WITH, WITHOUT, LATENT, SAMPLE, PLAIN, SHOW = "123456789"


@pytest.fixture(scope="module")
def graph(server, demo_model):
    """Prompt of a steered and an unsteered branch of one model, as a function of Apply's strength."""
    site = find_bottleneck(demo_model[0])
    folder = server.base / "models" / "concept_vectors"
    folder.mkdir(exist_ok=True)
    save_concept(Vector(torch.randn(site.channels, 4, 4), "random", site.family), folder / "random.safetensors")

    def sampler(model):
        return {
            "class_type": "KSampler",
            "inputs": {
                "model": [model, 0],
                "positive": [WITH, 0],
                "negative": [WITHOUT, 0],
                "latent_image": [LATENT, 0],
                "seed": 1,
                "steps": 2,
                "cfg": 4.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        }

    def make(strength):
        return {
            MODEL: {"class_type": "HSpaceLoadDemoModel", "inputs": {}},
            VECTOR: {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": "random.safetensors"}},
            APPLY: {
                "class_type": "HSpaceApplySteering",
                "inputs": {
                    "model": [MODEL, 0],
                    "concept": [VECTOR, 0],
                    "strength": strength,
                    "start_percent": 0.0,
                    "end_percent": 1.0,
                    "apply_to": "positive",
                },
            },
            WITH: {"class_type": "CLIPTextEncode", "inputs": {"clip": [MODEL, 1], "text": "a firefighter"}},
            WITHOUT: {"class_type": "CLIPTextEncode", "inputs": {"clip": [MODEL, 1], "text": ""}},
            LATENT: {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
            SAMPLE: sampler(APPLY),
            PLAIN: sampler(MODEL),
            "decode": {"class_type": "VAEDecode", "inputs": {"samples": [SAMPLE, 0], "vae": [MODEL, 2]}},
            "decode plain": {"class_type": "VAEDecode", "inputs": {"samples": [PLAIN, 0], "vae": [MODEL, 2]}},
            SHOW: {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
            "show plain": {"class_type": "PreviewImage", "inputs": {"images": ["decode plain", 0]}},
        }

    return make


def executed(server, prompt) -> set[str]:
    """Nodes that were not taken from the cache, by the history: the first events can come before one listens."""
    server.run(prompt)
    history = json.loads(urllib.request.urlopen(f"{server.url}/history?max_items=1", timeout=30).read())
    (entry,) = history.values()
    messages = dict(entry["status"]["messages"])
    return set(prompt) - set(messages["execution_cached"]["nodes"])


def test_only_apply_and_what_follows_is_executed_again(server, graph):
    # What the tests before left in the server's cache is theirs; nobody has steered with this vector.
    assert executed(server, graph(2.0)) >= {APPLY, SAMPLE, "decode", SHOW}
    assert executed(server, graph(2.0)) == set()
    assert executed(server, graph(3.0)) == {APPLY, SAMPLE, "decode", SHOW}
