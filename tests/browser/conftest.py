"""A real Chromium on the real editor of a real server."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.comfy_server import running_server
from scripts.comfyui import ROOT

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """If no Chromium starts, the tests of this folder are skipped with the line that says how to get one.

    In a process of its own: Playwright leaves an event loop running, and then no other test can have one.
    """
    mine = [item for item in items if HERE in item.path.parents]
    if mine and (reason := why_no_browser_starts()):
        for item in mine:
            item.add_marker(pytest.mark.skip(reason=reason))


def why_no_browser_starts() -> str:
    """One line; empty where one starts."""
    command = [sys.executable, "-m", "scripts.browser"]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return (tried.stderr.strip().splitlines() or ["no Chromium starts"])[-1] if tried.returncode else ""


@pytest.fixture(scope="session")
def server():
    """A server of their own: other tests count what theirs has cached and saved."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def editor(server):
    """One browser for all tests of a file. No longer: while Playwright's event loop runs, nothing else can have one."""
    from scripts.editor import open_editor

    with open_editor(server) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(editor):
    """No test leaves an error in the page, or something running."""
    editor.errors.clear()
    yield
    assert not editor.errors
