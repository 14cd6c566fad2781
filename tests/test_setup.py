"""The commands of the README: what they install, how they fail, and what a registry install ships."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from helpers import ROOT
from scripts import setup_environment

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments, **changes):
    """As from a shell, even where the tests themselves run under make."""
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, env={**environment, **changes}, timeout=120
    )


@needs_make
def test_bare_make_lists_its_targets():
    result = make()
    assert result.returncode == 0, result.stderr
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == set(rules) >= {"demo", "test", "lint", "types", "setup"}
    assert all(len(line.split()) > 1 for line in result.stdout.splitlines())


@needs_make
def test_own_comfyui_that_is_none_ends_with_one_line(tmp_path):
    result = make("demo", COMFYUI_PATH=str(tmp_path))
    assert result.returncode
    lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("make")]
    assert len(lines) == 1
    assert "point it at the folder that holds main.py" in lines[0]


@needs_make
@pytest.mark.skipif(bool(os.environ.get("COMFYUI_PATH")), reason="an own ComfyUI needs no set-up")
def test_second_setup_installs_nothing():
    began = time.monotonic()
    result = make("setup")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
    assert time.monotonic() - began < 5


def test_commands_without_a_comfyui_end_with_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "scripts.build_locales"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COMFYUI_PATH": str(tmp_path)},
    )
    assert result.returncode
    (line,) = result.stderr.splitlines()
    assert "point COMFYUI_PATH at yours" in line


@pytest.fixture
def no_browser(monkeypatch):
    """A machine without a browser, on which each command that is tried fails; returns the commands."""
    tried = []
    monkeypatch.setattr(setup_environment, "system_browser", lambda: None)
    monkeypatch.setattr(setup_environment, "quietly", lambda command: tried.append(" ".join(command[-3:])) or False)
    return tried


@pytest.mark.parametrize(
    ("user", "apt_get", "asked"), [(0, "apt-get", True), (0, None, False), (1000, "apt-get", False)]
)
def test_where_no_browser_can_be_had_setup_says_so_and_goes_on(monkeypatch, no_browser, capsys, user, apt_get, asked):
    monkeypatch.setattr(setup_environment.shutil, "which", lambda name: apt_get)
    monkeypatch.setattr(setup_environment.os, "geteuid", lambda: user)
    setup_environment.get_browser()
    assert any("playwright install chromium" in command for command in no_browser)
    assert any("apt-get update" in command for command in no_browser) == asked
    last = capsys.readouterr().out.splitlines()[-1]
    assert "skipped" in last
    assert "apt install chromium" in last


def test_a_system_browser_needs_no_download(monkeypatch, no_browser, capsys):
    monkeypatch.setattr(setup_environment, "system_browser", lambda: "/usr/bin/chromium")
    setup_environment.get_browser()
    assert not no_browser
    assert not capsys.readouterr().out


def test_what_is_installed_depends_on_every_list(tmp_path, monkeypatch):
    names = ("requirements.txt", *setup_environment.TOOLS)
    for name in names:
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(setup_environment, "ROOT", tmp_path)
    digests = {setup_environment.digest(setup_environment.TOOLS)}
    for name in names:
        with (tmp_path / name).open("a") as file:
            file.write("another\n")
        digests.add(setup_environment.digest(setup_environment.TOOLS))
    assert len(digests) == 1 + len(names)


def test_pack_names_only_what_comfyui_does_not_bring():
    names = [
        line.split(">")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"
    ]
    assert names == ["matplotlib", "regex"]


def test_registry_metadata():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    comfy = project["tool"]["comfy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    assert "comfyui" not in project["project"]["name"].lower()
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(comfy)
    assert project["project"]["license"] == "GPL-3.0-or-later"


def test_registry_install_has_what_nodes_use_and_no_more():
    """`.comfyignore` names whole folders and files, so no pattern can reach further than meant."""
    left_out = [line for line in (ROOT / ".comfyignore").read_text().splitlines() if line and line[0] != "#"]
    assert {"tests/", "benchmarks/", "demo/training/", ".github/"} <= set(left_out)
    assert not {"hspace/", "nodes/", "demo/", "vectors/", "web/", "locales/", "workflows/", "subgraphs/"} & set(
        left_out
    )
    for name in left_out:
        assert not set("*?[!") & set(name)
        assert (ROOT / name).exists(), name
