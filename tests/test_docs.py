"""The documents for developers: their code runs, their paths exist, and CI elsewhere is what CI is here."""

import re
import subprocess
import sys

import pytest
import yaml
from hspace_test_helpers import ROOT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/python.md"]


def test_the_python_example_runs(tmp_path):
    """The very code block, at a fraction of its steps and images."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    for old, new in {
        "steps=125, batch_size=8, sample_count=56": "steps=4, batch_size=2, sample_count=2",
        '["a judge"] * 4, seeds=[0, 1, 2, 3]': '["a judge"], seeds=[0]',
        '"woman.safetensors"': repr(str(tmp_path / "woman.safetensors")),
    }.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (tmp_path / "woman.py").write_text(f"{code}\nprint(tuple(images.shape), images.min() >= 0, images.max() <= 1)\n")
    result = subprocess.run([sys.executable, "-P", tmp_path / "woman.py"], cwd=ROOT, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert result.returncode == 0, result.stderr
    *progress, images = result.stdout.splitlines()
    assert [line.split()[0] for line in progress] == ["1", "2", "3", "4"]
    assert images == "(1, 128, 128, 3) tensor(True) tensor(True)"
    from hspace_steering.hspace.vector_file import load_direction

    assert load_direction(tmp_path / "woman.safetensors").family == "EmojiModel"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS[1:])
def test_named_files_exist(document):
    for name in re.findall(r"`([\w./]+\.(?:py|md)|[\w./]+/)`", (ROOT / document).read_text()):
        places = (ROOT / name, ROOT / "hspace" / name, ROOT / "nodes" / name)
        assert name == "woman.py" or name == "nodes.py" or any(place.exists() for place in places), (
            f"{document}: {name}"
        )


def test_diagram_names_the_modules_there_are():
    diagram = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    labels = re.findall(r'\["(.*?)"\]', diagram.split("subgraph hspace")[1].split("    end")[0])[1:]
    for label in labels:
        for name in label.split(":")[0].split(", "):
            assert (ROOT / "hspace" / f"{name}.py").is_file(), name


def test_workflows_elsewhere_run_what_ci_runs_here():
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert set(workflows) == {"test", "publish", "registry"}
    (job,) = workflows["test"]["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert workflows["publish"][True]["push"]["paths"] == ["pyproject.toml"], "YAML reads `on` as true"


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms(form):
    content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert {"name", "description", "body"} <= set(content)
    ids = [field["id"] for field in content["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in content["body"])
