"""Vectors on their way to a model of another family are refused when a prompt is queued."""

import json
import urllib.error
import urllib.request
from types import SimpleNamespace

import comfy.ops
import pytest
import safetensors.torch
import torch
from hspace_steering.nodes import wiring

import nodes as comfy_nodes
from helpers import node_classes, random_vector
from hspace.bottleneck import family_of
from hspace.comfy_weights import unet_structure_in_file
from hspace.concepts import Vector
from hspace.files import save_concept
from scripts.random_checkpoint import SD1, XL

SDXL_MISPLACED = "'woman' was found on SDXL, but Apply H-Space Steering (node apply) uses SD1 (sd1.safetensors)"


def header_only(path, config) -> None:
    """A file whose header lists a U-Net's tensors, and that holds none of their values."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    shared = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320}
    options = {**shared, "use_spatial_transformer": True, "legacy": False, **config}
    weights = UNetModel(**options, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    header = {
        f"model.diffusion_model.{key}": {"dtype": "F16", "shape": list(weight.shape), "data_offsets": [0, 0]}
        for key, weight in weights.items()
    }
    content = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(content).to_bytes(8, "little") + content)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    header_only(folder / "sd1.safetensors", SD1)
    header_only(folder / "sdxl.safetensors", XL)
    (folder / "broken.safetensors").write_bytes(b"\xff" * 100)
    safetensors.torch.save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    return folder


def test_the_family_of_a_checkpoint_is_in_its_header(checkpoints):
    families = {
        name: family_of(structure) if (structure := unet_structure_in_file(checkpoints / f"{name}.safetensors")) else ""
        for name in ("sd1", "sdxl", "broken", "other", "gone")
    }
    assert families == {"sd1": "SD1", "sdxl": "SDXL", "broken": "", "other": "", "gone": ""}


@pytest.fixture
def graph(checkpoints, vector_folder, monkeypatch):
    """A function that queues a prompt and says what Load Concept Vector answers."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(checkpoints)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("checkpoints", None)
    for node_id, node in node_classes().items():
        monkeypatch.setitem(comfy_nodes.NODE_CLASS_MAPPINGS, node_id, node)
    save_concept(random_vector(family="SDXL", name="woman"), vector_folder / "xl")

    def answer(changes=(), removed=(), **request):
        prompt = json.loads(json.dumps(PROMPT))
        prompt.update(changes)
        for name in removed:
            del prompt[name]
        wiring._note({"prompt": prompt, **request})
        load = node_classes()["HSpaceLoadConcept"].PREPARE_CLASS_CLONE({})
        load.hidden = SimpleNamespace(unique_id="load")
        return load.validate_inputs("xl.safetensors")

    yield answer
    wiring._note({})


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


PROMPT = {
    "model": node("CheckpointLoaderSimple", ckpt_name="sd1.safetensors"),
    "lora": node("LoraLoaderModelOnly", model=["model", 0], lora_name="x", strength_model=1.0),
    "load": node("HSpaceLoadConcept", concept_name="xl.safetensors"),
    "sweep": node("HSpaceSweepConcept", concept=["load", 0], **{"from": 0, "to": 1}),
    "apply": node("HSpaceApplySteering", model=["lora", 0], concept=["sweep", 0], strength=1.0),
    "text": node("CLIPTextEncode", clip=["model", 1], text="a judge"),
    "sampler": node("KSampler", model=["apply", 0], positive=["text", 0], negative=["text", 0]),
    "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
    "save": node("SaveImage", images=["decode", 0]),
}
SDXL = {"model": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors")}
UNKNOWN = {"model": node("CheckpointLoaderSimple", ckpt_name="broken.safetensors")}
DEMO = {"model": node("HSpaceLoadDemoModel")}
STEERED_TEXT = {
    "steer": node("HSpaceSteerConditioning", conditioning=["text", 0], concept=["sweep", 0], strength=1.0),
    "combine": node("ConditioningCombine", conditioning_1=["steer", 0], conditioning_2=["text", 0]),
    "sampler": node("KSampler", model=["lora", 0], positive=["combine", 0], negative=["text", 0]),
}


def test_a_vector_of_another_family_is_refused(graph):
    said = graph()
    assert said.startswith(f"concept_name: {SDXL_MISPLACED}")
    assert said.endswith("Choose a vector that was found on SD1, or load a model of SDXL.")
    assert "uses EmojiModel. Choose" in graph(DEMO)


def test_an_imported_vector_is_refused_too(graph, vector_folder):
    torch.save({"controlnet.fc1.weight": torch.zeros(1280 * 64, 1)}, vector_folder / "unet.pth")
    graph({**DEMO, "load": node("HSpaceImportConcept", file="unet.pth")})
    imported = node_classes()["HSpaceImportConcept"].PREPARE_CLASS_CLONE({})
    imported.hidden = SimpleNamespace(unique_id="load")
    said = imported.validate_inputs("unet.pth")
    assert said.startswith("file: 'unet.pth' was found on SD1, but Apply H-Space Steering (node apply) uses EmojiModel")


def test_a_steered_prompt_is_followed_to_its_sampler(graph):
    assert "KSampler (node sampler) uses SD1" in graph(STEERED_TEXT, ["apply"])
    still = {"steer": node("HSpaceSteerConditioning", conditioning=["text", 0], concept=["sweep", 0], strength=0)}
    assert graph({**STEERED_TEXT, **still}, ["apply"]) is True


MERGED = {
    "second": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"),
    "lora": node("ModelMergeSimple", model1=["model", 0], model2=["second", 0]),
}


@pytest.mark.parametrize(
    ("changes", "request_"),
    [
        (SDXL, {}),
        (UNKNOWN, {}),
        ({"model": node("CheckpointLoaderSimple", ckpt_name=["text", 0])}, {}),
        ({"model": node("SomebodysLoader", ckpt_name="sd1.safetensors")}, {}),
        (MERGED, {}),
        ({"save": node("VAEEncode", pixels=["decode", 0])}, {}),
        ({"other": node("SaveImage", images=["x", 0])}, {"partial_execution_targets": ["other"]}),
        ({"apply": node("HSpaceApplySteering", model=["apply", 0], concept=["sweep", 0])}, {}),
        ({"apply": None, "lora": [], "sweep": node(["a"], concept=["load", 0])}, {}),
        ({"sweep": node("HSpaceSweepConcept", concept=["load", 7])}, {}),
        ({"sweep": node("HSpaceSweepConcept", concept=["load", "0"])}, {}),
        ({"load": {"class_type": "HSpaceLoadConcept", "inputs": None}}, {}),
    ],
    ids=range(12),
)
def test_what_fits_or_cannot_be_told_is_left_to_the_run(graph, changes, request_):
    assert graph(changes, **request_) is True


def test_a_graph_of_no_form_at_all_is_left_to_the_server(graph):
    for prompt in (None, [], "x", 7):
        wiring._note({"prompt": prompt})
        assert wiring.other_family("load", "x", "SDXL") == ""


def test_the_server_refuses_it_when_it_is_queued(server):
    vectors = server.base / "models" / "concept_vectors"
    vectors.mkdir(exist_ok=True)
    save_concept(Vector(torch.zeros(4, 1, 1), "woman", "SDXL"), vectors / "misplaced")
    prompt = {
        "1": node("HSpaceLoadDemoModel"),
        "2": node("HSpaceLoadConcept", concept_name="misplaced.safetensors"),
        "3": node(
            "HSpaceApplySteering",
            model=["1", 0],
            concept=["2", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
            apply_to="positive",
        ),
        "4": node("PreviewAny", source=["3", 1]),
    }
    try:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            server.queue(prompt)
        answer = json.loads(refusal.value.read())
        (error,) = answer["node_errors"]["2"]["errors"]
        assert "'woman' was found on SDXL, but Apply H-Space Steering (node 3) uses EmojiModel." in error["details"]
        assert error["extra_info"]["input_name"] == "concept_name"
        prompt["2"]["inputs"]["concept_name"] = "emoji_woman.safetensors"
        server.run(prompt)
    finally:
        (vectors / "misplaced.safetensors").unlink()
