"""The documents for developers: their code runs, their paths exist, and CI elsewhere is what CI is here."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from helpers import ROOT
from hspace.files import load_concept
from scripts.comfyui import comfyui_folder

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/python.md",
    "docs/results.md",
    "docs/discovery.md",
    "docs/decisions.md",
    "docs/library.md",
    "vectors/README.md",
    "demo/README.md",
]


def test_the_python_example_runs(tmp_path):
    """The very code block, at a fraction of its steps and images."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    for old, new in {
        "steps=125, batch_size=8, sample_count=112": "steps=4, batch_size=2, sample_count=2",
        '["a judge"] * 4, seeds=[0, 1, 2, 3]': '["a judge"], seeds=[0]',
        '"woman.safetensors"': repr(str(tmp_path / "woman.safetensors")),
    }.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (tmp_path / "woman.py").write_text(f"{code}\nprint(tuple(images.shape), images.min() >= 0, images.max() <= 1)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (comfyui_folder(), ROOT)))}
    command = [sys.executable, tmp_path / "woman.py"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    *progress, images = result.stdout.splitlines()
    assert [line.split()[0] for line in progress] == ["1", "2", "3", "4"]
    assert images == "(1, 128, 128, 3) tensor(True) tensor(True)"
    assert load_concept(tmp_path / "woman.safetensors").family == "EmojiModel"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS[1:4])
def test_named_files_exist(document):
    for name in re.findall(r"`([\w./]+\.(?:py|md)|[\w./]+/)`", (ROOT / document).read_text()):
        places = ((ROOT / document).parent / name, ROOT / name, ROOT / "nodes" / name, *(ROOT / "hspace").rglob(name))
        assert name in ("woman.py", "nodes.py") or any(place.exists() for place in places), f"{document}: {name}"


def test_five_steps_lead_from_a_clone_to_a_picture_and_set_no_number_but_the_size():
    readme = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"## From a clone to a steered picture\n(.*?)\n\n[^\n1]", readme, re.DOTALL)
    steps = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    assert len(steps) <= 5
    assert steps[0].startswith("Clone")
    assert steps[-1].startswith("Run.")
    schema = json.loads((ROOT / "tests" / "data" / "schema.json").read_text())
    workflow = json.loads((ROOT / "workflows" / "discover_and_steer.json").read_text())
    nodes = {node["type"]: node for node in workflow["nodes"]}
    inputs = {name: item["type"] for kind in nodes.keys() & schema for name, item in schema[kind]["inputs"].items()}
    numbers = {name for name, kind in inputs.items() if kind in ("INT", "FLOAT")} | {"cfg", "denoise"}
    assert {"strength", "batch_size", "learning_rate", "width"} <= numbers
    for step in steps:
        assert not numbers & set(re.findall(r"\w+", step)), step
    discover = schema["HSpaceDiscoverConcept"]["inputs"]
    widgets = [name for name, item in discover.items() if "default" in item]
    values = dict(zip(widgets, nodes["HSpaceDiscoverConcept"]["widgets_values"], strict=False))
    assert (values["width"], values["height"]) == (0, 0), "discovery takes the model's native size"


def test_workflows_elsewhere_run_what_ci_runs_here():
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert set(workflows) == {"test", "publish", "registry"}
    (job,) = workflows["test"]["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step and "if" not in step]
    assert commands == [".ci/run"]
    assert job["strategy"]["matrix"] == {"comfyui": ["bundled", "latest"], "python": ["3.10", "3.13"]}


def test_publishing_needs_the_tests_and_a_tag_that_is_the_version():
    publish = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    assert publish[True] == {"push": {"tags": ["v*"]}}, "YAML reads `on` as true"
    version, test, registry = (publish["jobs"][name] for name in ("version", "test", "publish"))
    assert "GITHUB_REF_NAME" in version["steps"][-1]["run"]
    assert test == {"needs": "version", "uses": "./.github/workflows/test.yml"}
    assert registry["needs"] == "test"


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms(form):
    content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert {"name", "description", "body"} <= set(content)
    ids = [field["id"] for field in content["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in content["body"])
