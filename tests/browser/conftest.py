"""A real Chromium on the real editor of a real server."""

import sys

import pytest
from hspace_test_helpers import ROOT

sys.path.append(str(ROOT / "scripts"))
import editor as editor_module


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
