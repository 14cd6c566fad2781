"""The pack in a real server: loading, the shipped workflow from its file, cancel, and what is left behind."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from helpers import ROOT
from scripts.build_workflows import write_all
from scripts.comfy_server import running_server

WORKFLOW = ROOT / "workflows" / "discover_and_steer.json"
WRITTEN_WITH = "0.3.75"
"""The ComfyUI that `make setup` gets."""
OUTPUTS = ("SaveImage", "PreviewImage", "HSpaceSaveConcept")


def get(server, path):
    return json.loads(urllib.request.urlopen(f"{server.url}{path}", timeout=30).read())


def small(server, **changes):
    """The shipped workflow as a prompt, at a fraction of its steps."""
    prompt = server.convert(WORKFLOW)
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "HSpaceDiscoverConcept":
            inputs.update({"steps": 8, "batch_size": 2, "sample_count": 4, **changes})
        if node["class_type"] == "EmptyLatentImage":
            inputs["batch_size"] = 2
        if node["class_type"] == "KSampler":
            inputs["steps"] = 3
    return prompt


def discover_node(prompt):
    return next(key for key, node in prompt.items() if node["class_type"] == "HSpaceDiscoverConcept")


def test_files_for_the_editor_are_what_the_script_writes(server, tmp_path):
    """Else a default that has changed stays in a workflow that was not written anew."""
    if get(server, "/system_stats")["system"]["comfyui_version"] != WRITTEN_WITH:
        pytest.skip(f"stock nodes of another ComfyUI than {WRITTEN_WITH} may have other widgets")
    write_all(get(server, "/object_info"), tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.json"))
    shipped = [path.relative_to(ROOT) for name in ("subgraphs", "workflows") for path in (ROOT / name).glob("*.json")]
    assert written == sorted(shipped)
    for path in written:
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), path


def test_loads_quietly_and_fast(server):
    log = re.sub(r"\x1b\[[0-9;]*m", "", server.log.read_text())  # newer versions write in colour
    log = log.split("got prompt")[0]
    assert "Error" not in log.split("Import times for custom nodes")[1]
    seconds = re.search(r"([\d.]+) seconds: .*h-space-steering", log)
    assert seconds, log
    assert float(seconds[1]) < 0.5
    before = log.split("Import times for custom nodes")[0].splitlines()
    about_us = [line for line in before if "h-space-steering" in line]
    quiet = ["Automatically register web folder web for h-space-steering"]  # newer versions name the level before it
    assert [line.removeprefix("[INFO] ") for line in about_us] == quiet, "a warning while loading"
    info = get(server, "/object_info")
    assert {name for name in info if name.startswith("HSpace")} >= {"HSpaceDiscoverConcept", "HSpaceApplySteering"}
    assert info["HSpaceDiscoverConcept"]["input"]["required"]["steps"][1]["tooltip"]


def test_shipped_workflow_runs_and_shows_progress(server):
    events, prompt = [], small(server)
    outputs = server.run(prompt, on_event=events.append)
    assert sum("images" in output for output in outputs.values()) == 4
    (vector,) = (server.base / "models" / "concept_vectors" / "demo").glob("*.safetensors")
    from hspace.files import load_concept

    direction = load_concept(vector)
    assert direction.family == "EmojiModel"
    assert direction.provenance.concept_prompt.startswith("a woman firefighter | a woman teacher")
    assert direction.provenance.base_prompt.startswith("a firefighter | a teacher")
    bars = [event["data"] for event in events if event.get("type") == "progress"]
    moves = [(data["value"], data["max"]) for data in bars if data["node"] == discover_node(prompt)]
    assert len(set(moves)) >= 2  # newer versions leave out updates that come within a tenth of a second
    assert 8 < moves[-1][0] <= moves[-1][1] == 8 + 5 * 12  # the steps, and judging what they found
    assert moves == sorted(moves)


def test_cancel_through_the_server_and_resume_to_the_same_bits(server):
    """In the middle of a sampling run of 40 states, as users do it: Load the partial file, connect it to start_from."""
    from hspace.files import load_concept

    vectors = server.base / "models" / "concept_vectors"
    prompt = small(server, steps=40, sample_count=2, measure_range=False)  # a range takes longer than all steps
    discover, asked = discover_node(prompt), []

    def cancel(event):
        data = event.get("data", {})
        if event.get("type") == "progress" and data["node"] == discover and data["value"] >= 5 and not asked:
            asked.append(data["value"])
            urllib.request.urlopen(urllib.request.Request(f"{server.url}/interrupt", data=b"{}", method="POST"))

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="interrupted"):
        server.run(prompt, on_event=cancel)
    assert time.monotonic() - began < 60
    (partial,) = (vectors / "partial").glob("*.safetensors")
    stopped = load_concept(partial)
    assert 5 <= stopped.provenance.steps < 40
    assert "The vector so far is in" in server.log.read_text()

    def saved(name, **inputs):
        wanted = {key: node for key, node in prompt.items() if node["class_type"] not in OUTPUTS}
        wanted[discover] = {**prompt[discover], "inputs": {**prompt[discover]["inputs"], **inputs}}
        wanted["load"] = {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": f"partial/{partial.name}"}}
        save = {"concept": [discover, 0], "filename_prefix": f"resumed/{name}"}
        wanted["save"] = {"class_type": "HSpaceSaveConcept", "inputs": save}
        server.run(wanted)
        return load_concept(vectors / "resumed" / f"{name}.safetensors")

    resumed, whole = saved("resumed", start_from=["load", 0]), saved("whole")
    assert torch.equal(resumed.tensor, whole.tensor)
    assert resumed.provenance.final_loss == whole.provenance.final_loss


def test_missing_vector_is_refused_before_running(server):
    prompt = {
        "1": {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": "gone.safetensors"}},
        "2": {"class_type": "HSpaceSaveConcept", "inputs": {"concept": ["1", 0], "filename_prefix": "x"}},
    }
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.queue(prompt)
    assert "gone.safetensors" in refusal.value.read().decode()


def test_interrupting_leaves_no_server_behind():
    script = (
        "import time\n"
        "from scripts.comfy_server import running_server\n"
        "with running_server() as server:\n"
        "    print(server.process.pid, server.base, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid, base = process.stdout.readline().split()
    process.terminate()
    process.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert not Path(base).exists()


def test_server_that_cannot_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no luck')")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no luck"), running_server():
        pass
