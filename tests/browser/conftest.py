"""A real Chromium on the real editor of a real server."""

import sys

import pytest
from hspace_test_helpers import ROOT, running_server

sys.path.append(str(ROOT / "scripts"))
import editor as editor_module


@pytest.fixture(scope="session")
def server():
    """A server of their own: other tests count what theirs has cached and saved."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def editor(server):
    """One browser for all tests of a file. No longer: Playwright keeps an event loop running, and then nothing else can."""
    with editor_module.open_editor(server) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(editor):
    """No test leaves an error in the page, or something running."""
    editor.errors.clear()
    yield
    assert not editor.errors
