"""The commands of the README: what they install, and how they fail."""

import os
import shutil
import subprocess
import time

import pytest
from hspace_test_helpers import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments, **changes):
    """As from a shell, even where the tests themselves run under make."""
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, env={**environment, **changes}, timeout=120
    )


def test_own_comfyui_that_is_none_ends_with_one_line(tmp_path):
    result = make("demo", COMFYUI_PATH=str(tmp_path))
    assert result.returncode
    lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("make")]
    assert len(lines) == 1
    assert "point it at the folder that holds main.py" in lines[0]


@pytest.mark.skipif(bool(os.environ.get("COMFYUI_PATH")), reason="an own ComfyUI needs no set-up")
def test_second_setup_installs_nothing():
    began = time.monotonic()
    result = make("setup")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
    assert time.monotonic() - began < 5


def test_pack_names_only_what_comfyui_does_not_bring():
    names = [
        line.split(">")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"
    ]
    assert names == ["matplotlib"]


def test_registry_metadata():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    comfy = project["tool"]["comfy"]
    assert project["project"]["version"] == "0.1.0"
    assert "comfyui" not in project["project"]["name"].lower()
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(comfy)
    assert project["project"]["license"] == {"text": "GPL-3.0-or-later"}
