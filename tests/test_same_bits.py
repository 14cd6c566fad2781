"""Results of discovery and of every shipped workflow stay the same, bit for bit, while the code around them changes.

The digests in `data/same_bits.json` hold on the machine they were recorded on; arithmetic differs between processors
and versions of torch, so elsewhere the same values are compared within a tolerance. A change that is meant to alter
what is computed records them anew with `RECORD_SAME_BITS=1` and says so in the changelog.
"""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.common import device_name
from helpers import ROOT, SMALL_CONSTANTS, TinyVPrediction, conditioning, random_vector, run_node, tiny_model
from hspace.files import load_concept

RECORDED = Path(__file__).parent / "data" / "same_bits.json"
RECORDING = bool(os.environ.get("RECORD_SAME_BITS"))
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FAST = {**SMALL_CONSTANTS, "steps": 8, "sites": "bottleneck"}
DECODER = {"sites": "decoder"}
RESPONSE = {**DECODER, "response_rank": 4}
SAMPLES = {"samples": torch.randn(5, 4, 16, 16, generator=torch.Generator().manual_seed(3))}
PAIRS = {"concept": conditioning(1, entries=2), "base": conditioning(2, entries=2)}
SAME = conditioning(2)
CASES = {
    "default": {},
    "pairs": PAIRS,
    "avoid": {"concept": SAME, "base": SAME, "avoid": conditioning(9)},
    "pairs and avoid": {**PAIRS, "avoid": conditioning(9)},
    "pairs, avoid and keep": {**PAIRS, "avoid": conditioning(9), "keep": conditioning(7, entries=3)},
    "pairs of different lengths": {
        "concept": conditioning(1) + conditioning(5, tokens=14),
        "base": conditioning(2, entries=2),
    },
    "seed": {"seed": 2**63 + 5},
    "given samples": {"samples": SAMPLES, **PAIRS},
    "spatial mean": {"spatial_mean": True},
    "calibrated": {"steps": 40, "learning_rate": 1.0, "guidance": 100.0},
    "measured range": {"measure_range": True, "batch_size": 3},
    "continued": {"start_from": random_vector()},
    "checkpointing": {"gradient_checkpointing": True},
    "v-prediction": {"model": lambda: tiny_model(config_class=TinyVPrediction)},
    "bfloat16": {"model": lambda: tiny_model(dtype=torch.bfloat16)},
    "decoder": DECODER,
    "decoder, pairs": {**DECODER, **PAIRS},
    "decoder, given samples": {**DECODER, "samples": SAMPLES, **PAIRS},
    "decoder, calibrated and measured": {**DECODER, "steps": 40, "measure_range": True},
    "decoder, v-prediction": {**DECODER, "model": lambda: tiny_model(config_class=TinyVPrediction)},
    "response": RESPONSE,
    "response, pairs and keep": {**RESPONSE, **PAIRS, "keep": conditioning(7, entries=3)},
    "response beside a map": {"response_rank": 4},
    "paper": {"method": "paper"},
    "paper, pairs and avoid": {"method": "paper", **PAIRS, "avoid": conditioning(9)},
    "paper, given samples": {"method": "paper", "samples": SAMPLES, **PAIRS},
    "paper, v-prediction": {"method": "paper", "model": lambda: tiny_model(config_class=TinyVPrediction)},
}


def environment() -> str:
    """The machine and libraries that the last bits of a result depend on."""
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    return f"{device_name()}, {torch.get_num_threads()} threads, {versions}"


def summary(values: torch.Tensor) -> dict:
    """A digest for the same machine, and the leading values for every other."""
    flat = values.detach().float().contiguous().flatten()
    digest = hashlib.sha256(str(list(values.shape)).encode() + flat.numpy().tobytes()).hexdigest()
    return {"sha256": digest, "rms": flat.square().mean().sqrt().item(), "first": flat[:4].tolist()}


def check(name: str, found: dict[str, dict]) -> None:
    """Compare with what was recorded, or record it."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if RECORDING:
        recorded.setdefault("results", {})[name] = found
        recorded["environment"] = environment()
        RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
        return
    expected = recorded["results"][name]
    assert found.keys() == expected.keys()
    if recorded["environment"] == environment():
        assert found == expected
        return
    for key, values in expected.items():
        tolerance = 0.05 * values["rms"] + 1e-6
        assert found[key]["rms"] == pytest.approx(values["rms"], abs=tolerance)
        assert found[key]["first"] == pytest.approx(values["first"], abs=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_discovery(name):
    inputs = {**FAST, "concept": conditioning(1), "base": conditioning(2), **CASES[name]}
    inputs["model"] = inputs.pop("model", tiny_model)()
    concept, _, samples, _ = run_node("HSpaceDiscoverConcept", **inputs)
    numbers = ("evaluations", "final_loss", "reach", "scale", "strength_saturates", "strength_breaks")
    texts = concept.provenance.to_strings()
    metadata = [float(texts[key]) for key in numbers if key in texts]
    latents = torch.cat([batch["samples"].flatten() for batch in samples])
    further = {f"site {site}": summary(tensor) for site, tensor in concept.decoder.items()}
    for site, response in concept.responses.items():
        further |= {f"{part} of site {site}": summary(tensor) for part, tensor in response._asdict().items()}
    check(
        name,
        {
            "vector": summary(concept.tensor),
            **further,
            "metadata": summary(torch.tensor(metadata)),
            "samples": summary(latents),
        },
    )


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow(server, file):
    """From the very file that users open, with fewer steps and images."""
    prompt = server.convert(file)
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "HSpaceDiscoverConcept":
            inputs.update({"steps": 8, "batch_size": 2, "sample_count": 4})
        if node["class_type"] == "EmptyLatentImage":
            inputs["batch_size"] = 2
        if node["class_type"] == "KSampler":
            inputs["steps"] = 3
        if node["class_type"] == "HSpaceSaveConcept":
            inputs["filename_prefix"] = "same_bits"
    outputs, results = server.run(prompt), {}
    showing = [node for node in prompt.values() if node["class_type"] in ("SaveImage", "PreviewImage")]
    assert sum("images" in output for output in outputs.values()) == len(showing) > 0
    for node, entry in sorted(prompt.items()):
        if entry["class_type"] == "SaveImage" and "plot" not in entry["inputs"]["filename_prefix"]:
            images = [
                Image.open(io.BytesIO((server.output / image["subfolder"] / image["filename"]).read_bytes()))
                for image in outputs[node]["images"]
            ]
            pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
            results[f"{node}: {entry['inputs']['filename_prefix']}"] = summary(torch.from_numpy(pixels))
    for path in (server.base / "models" / "concept_vectors").glob("same_bits*.safetensors"):
        results["vector"] = summary(load_concept(path).tensor)
        path.unlink()
    assert results
    check(f"workflow {file.stem}", results)
