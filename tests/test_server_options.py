"""Discovery under command line options that change what ComfyUI keeps between nodes, and in which precision."""

import pytest
from comfy.cli_args import parser

from scripts.comfy_server import running_server

OPTIONS = {
    "nothing kept, half precision": ("--cache-none", "--fp16-intermediates"),
    "one output kept": ("--cache-lru", "1"),
}


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


PROMPT = {
    "model": node("HSpaceLoadDemoModel"),
    "woman": node("CLIPTextEncode", clip=["model", 1], text="a woman doctor"),
    "doctor": node("CLIPTextEncode", clip=["model", 1], text="a doctor"),
    "latent": node("EmptyLatentImage", width=128, height=128, batch_size=2),
    "samples": node(
        "KSampler",
        model=["model", 0],
        positive=["woman", 0],
        negative=["doctor", 0],
        latent_image=["latent", 0],
        seed=0,
        steps=2,
        cfg=4.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    ),
    "discover": node(
        "HSpaceDiscoverConcept",
        model=["model", 0],
        concept=["woman", 0],
        base=["doctor", 0],
        samples=["samples", 0],
        name="woman",
        method="distilled",
        steps=2,
        batch_size=2,
        learning_rate=0.1,
        guidance=3.0,
        sample_count=2,
        width=128,
        height=128,
        seed=0,
    ),
    "save": node("HSpaceSaveConcept", concept=["discover", 0], filename_prefix="woman"),
    "plot": node("PreviewImage", images=["discover", 1]),
    "inspect": node("HSpaceInspectConcept", concept=["discover", 0]),
    "picture": node("PreviewImage", images=["inspect", 1]),
    "decoded": node("VAEDecode", samples=["discover", 2], vae=["model", 2]),
    "learnt on": node("PreviewImage", images=["decoded", 0]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_discover_runs_once(name):
    """Its outputs go to several nodes, at different times."""
    known = {option for action in parser._actions for option in action.option_strings}
    arguments = [argument for argument in OPTIONS[name] if not argument.startswith("--") or argument in known]
    if not arguments[0].startswith("--"):
        pytest.skip(f"this ComfyUI has no {OPTIONS[name][0]}")
    events = []
    with running_server(tuple(arguments)) as server:
        outputs = server.run(PROMPT, on_event=events.append)
        assert (server.base / "models" / "concept_vectors" / "woman.safetensors").is_file()
    assert {"save", "plot", "picture", "learnt on"} <= set(outputs)
    runs = [event for event in events if event.get("type") == "executing" and event["data"].get("node") == "discover"]
    assert len(runs) == 1
