"""Where weights live, as users have it: a real server on the card, sampled on and discovered on.

ComfyUI's dynamic VRAM takes its place before anything is allocated on the card, so it cannot be switched on inside of a
process that tests run in.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import comfy.cli_args
import comfy.utils
import pytest
import torch
from safetensors.torch import save_file

from hspace import load_concept
from scripts.comfy_server import Server, running_server
from scripts.comfyui import ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

KNOWS_DYNAMIC_VRAM = hasattr(comfy.cli_args.args, "disable_dynamic_vram")
NOT_DYNAMIC = ("--disable-dynamic-vram",) if KNOWS_DYNAMIC_VRAM else ()
ENABLED = "DynamicVRAM support detected and enabled"
WAYS = {
    "offloaded": (*NOT_DYNAMIC, "--novram"),
    "dynamic": (),
    "dynamic, no room": ("--reserve-vram", "10000"),
}
FILES = {
    "half": ("fp16", "--fp16-unet", 0.9),
    "single, run in half": ("fp32", "--fp16-unet", 0.9),
    "half, run in single": ("fp16", "--fp32-unet", 0.999),
}
"""Checkpoint, option of the server, and least cosine. Kernels round in another order where weights come from elsewhere,
and Adam makes much of it in its first steps: in half precision a few percent. Gradients through weights that were
overwritten meanwhile have a cosine of 0.4 at most."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A `models/` folder with a small checkpoint of SD 1.5's shape, in fp16 and in fp32."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    small = folder / "checkpoints" / "fp16.safetensors"
    command = [sys.executable, "-m", "scripts.random_checkpoint", "SD 1.5 reduced", str(small)]
    subprocess.run(command, cwd=ROOT, check=True)
    state = {key: value.float() for key, value in comfy.utils.load_torch_file(str(small)).items()}
    save_file(state, folder / "checkpoints" / "fp32.safetensors")
    return folder


def prompt(file: str, name: str) -> dict:
    """Discover and Save in the API's format."""
    texts = {"concept": "a photo of a woman", "base": "a photo of a person"}
    encoders = {
        key: {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": text}}
        for key, text in texts.items()
    }
    discover = {
        "model": ["model", 0],
        "concept": ["concept", 0],
        "base": ["base", 0],
        "name": name,
        "method": "distilled",
        "learning_rate": 0.1,
        "guidance": 3.0,
        "seed": 0,
        "steps": 8,
        "batch_size": 2,
        "sample_count": 2,
        "width": 128,
        "height": 128,
        "measure_range": False,
        "preview_every": 0,
    }
    return {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{file}.safetensors"}},
        **encoders,
        "discover": {"class_type": "HSpaceDiscoverConcept", "inputs": discover},
        "save": {"class_type": "HSpaceSaveConcept", "inputs": {"concept": ["discover", 0], "filename_prefix": name}},
    }


def picture(file: str) -> dict:
    """KSampler and Save Image."""
    nodes = prompt(file, "unused")
    sampled = {
        "model": ["model", 0],
        "positive": ["concept", 0],
        "negative": ["base", 0],
        "latent_image": ["latent", 0],
        "seed": 0,
        "steps": 3,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    size = {"width": 128, "height": 128, "batch_size": 1}
    return {
        **{key: nodes[key] for key in ("model", "concept", "base")},
        "latent": {"class_type": "EmptyLatentImage", "inputs": size},
        "sampled": {"class_type": "KSampler", "inputs": sampled},
        "image": {"class_type": "VAEDecode", "inputs": {"samples": ["sampled", 0], "vae": ["model", 2]}},
        "saved": {"class_type": "SaveImage", "inputs": {"images": ["image", 0], "filename_prefix": "picture"}},
    }


def vectors_of(server: Server, models: Path, file: str, name: str) -> list[torch.Tensor]:
    """Found before a picture was sampled, and after; every number of all sites, in one tensor each."""
    found = []
    for place in ("before", "after"):
        server.run(prompt(file, f"{name} {place}"))
        (path,) = (models / "concept_vectors").glob(f"{name} {place}*.safetensors")
        found.append(torch.cat([tensor.flatten() for tensor in load_concept(path).tensors.values()]))
        server.run(picture(file))
    return found


@pytest.fixture(scope="module", params=FILES)
def plain(request, models):
    """Of weights that all stay on the card: the file, and its two vectors."""
    checkpoint, option, _ = FILES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # single precision is to be that
        with running_server((*NOT_DYNAMIC, "--highvram", option), models=models) as server:
            vectors = vectors_of(server, models, checkpoint, f"{request.param} on the card".replace(" ", "-"))
            assert ENABLED not in server.log.read_text()
        yield request.param, vectors


@pytest.mark.parametrize("way", WAYS)
def test_the_vector_is_that_of_weights_on_the_card(plain, models, way):
    file, wanted = plain
    if way.startswith("dynamic") and not KNOWS_DYNAMIC_VRAM:
        pytest.skip("this ComfyUI has no dynamic VRAM")
    checkpoint, option, least = FILES[file]
    with running_server((*WAYS[way], option), models=models) as server:
        found = vectors_of(server, models, checkpoint, f"{file} {way}".replace(" ", "-"))
        log = server.log.read_text()
    # Without it the run would show nothing, and look like a success.
    assert (ENABLED in log) == way.startswith("dynamic"), "dynamic VRAM does not start on this machine"
    floor = 1 - torch.cosine_similarity(*wanted, dim=0).item()
    for before_or_after, vector in zip(("before", "after"), found, strict=True):
        likeness = torch.cosine_similarity(vector, wanted[0], dim=0).item()
        length = (vector.norm() / wanted[0].norm()).item()
        print(f"{file}, {way}, {before_or_after}: 1 - cosine {1 - likeness:.1e}, plain twice {floor:.1e}, {length:.5f}")
        assert likeness > least
        assert abs(length - 1) < 1 - least
