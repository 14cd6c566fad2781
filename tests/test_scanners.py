"""Findings of the ecosystem's scanners: each is explained in docs/scanners.md, and workflows are clean."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

TABLE = (ROOT / "docs" / "scanners.md").read_text()


def scanner(name: str) -> str:
    """The program of that name beside Python, else on the PATH; without it the test is skipped."""
    program = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def explained() -> list[tuple[str, set[str]]]:
    """Pattern and folders of each row of the table."""
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| .+ \|$", TABLE, re.MULTILINE)
    return [(pattern, set(folders.split(", "))) for pattern, folders in rows]


def tracked() -> list[str]:
    """Files of the pack: what git tracks, and what is new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    pack = tmp_path_factory.mktemp("pack")
    for name in tracked():
        if (ROOT / name).is_file() and name != "docs/scanners.md":  # it quotes the patterns
            (pack / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, pack / name)
    command = [scanner("nodesafe"), "scan", "--format", "json", "--fail-on", "none", str(pack)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["findings"]


def folder_of(finding) -> str:
    return (finding.get("file") or "everywhere").split("/")[0]


def test_every_finding_of_nodesafe_is_explained(findings):
    assert findings
    unexplained = [
        finding
        for finding in findings
        if not any(pattern in finding["title"] and folder_of(finding) in folders for pattern, folders in explained())
    ]
    assert not [(finding["title"], finding["file"], finding["line"]) for finding in unexplained]


def test_every_explanation_has_a_finding(findings):
    for pattern, folders in explained():
        found = {folder_of(finding) for finding in findings if pattern in finding["title"]}
        assert found == folders, pattern


def test_nothing_that_runs_in_comfyui_starts_programs_or_opens_connections(findings):
    serious = [
        f
        for f in findings
        if (f.get("file") or "").startswith(("hspace/", "nodes/", "__init__"))
        and f["category"] in ("shell_execution", "network_call", "unsafe_deserialization")
    ]
    assert not serious


@pytest.mark.parametrize("workflow", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_comfy_lint_is_clean(server, workflow, tmp_path):
    prompt = tmp_path / workflow.name
    prompt.write_text(json.dumps(server.convert(workflow)))
    command = [scanner("comfy-lint"), "--strict", "--color", "never", "--server", server.url, str(prompt)]
    linted = subprocess.run(command, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr
