"""The pack in a real server: loading, the shipped workflow from its file, cancel, and what is left behind."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from helpers import ROOT
from scripts.comfy_server import running_server

WORKFLOW = ROOT / "workflows" / "discover_and_steer.json"


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


def test_loads_quietly_and_fast(server):
    log = server.log.read_text()
    assert "Error" not in log.split("Import times for custom nodes")[1]
    seconds = re.search(r"([\d.]+) seconds: .*h-space-steering", log)
    assert seconds, log
    assert float(seconds[1]) < 0.5
    before = log.split("Import times for custom nodes")[0].splitlines()
    about_us = [line for line in before if "h-space-steering" in line]
    assert about_us == ["Automatically register web folder web for h-space-steering"], "a warning while loading"
    info = get(server, "/object_info")
    assert {name for name in info if name.startswith("HSpace")} >= {"HSpaceDiscoverConcept", "HSpaceApplySteering"}
    assert info["HSpaceDiscoverConcept"]["input"]["required"]["steps"][1]["tooltip"]


def test_shipped_workflow_runs_and_shows_progress(server):
    events = []
    outputs = server.run(small(server), on_event=events.append)
    assert sum("images" in output for output in outputs.values()) == 4
    (vector,) = (server.base / "models" / "concept_vectors" / "demo").glob("*.safetensors")
    from hspace.files import load_concept

    direction = load_concept(vector)
    assert direction.family == "EmojiModel"
    assert direction.provenance.concept_prompt.startswith("a woman firefighter | a woman scientist")
    assert direction.provenance.base_prompt.startswith("a firefighter | a scientist")
    values = [
        event["data"]["value"] for event in events if event.get("type") == "progress" and event["data"]["max"] == 8
    ]
    assert len(values) >= 4
    assert values == sorted(values)


def test_cancel_through_the_server_saves_a_partial_vector(server):
    prompt = small(server, steps=3000, sample_count=4000)

    def cancel():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and "Discover" not in started:
            time.sleep(0.05)
        time.sleep(1)
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/interrupt", data=b"{}", method="POST"))

    started: list[str] = []

    def listen(event):
        if event.get("type") == "progress" and event["data"]["max"] == 3000:
            started.append("Discover")

    thread = threading.Thread(target=cancel)
    thread.start()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="interrupted"):
        server.run(prompt, on_event=listen)
    thread.join()
    assert time.monotonic() - began < 60
    assert list((server.base / "models" / "concept_vectors" / "partial").glob("*.safetensors"))
    assert "The vector so far is in" in server.log.read_text()


def test_missing_vector_is_refused_before_running(server):
    prompt = {
        "1": {"class_type": "HSpaceLoadConcept", "inputs": {"concept_name": "gone.safetensors"}},
        "2": {"class_type": "HSpaceSaveConcept", "inputs": {"concept": ["1", 0], "filename_prefix": "x"}},
    }
    request = urllib.request.Request(
        f"{server.url}/prompt", json.dumps({"prompt": prompt}).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request)
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
