"""The pack's version, from the one place that states it."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

_PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def _version() -> str:
    """The version in `pyproject.toml` beside the package, or of the installed distribution, or "unknown"."""
    if _PROJECT.is_file() and (match := re.search(r'^version = "(.+)"$', _PROJECT.read_text("utf-8"), re.MULTILINE)):
        return match[1]
    try:
        return metadata.version("h-space-steering")
    except metadata.PackageNotFoundError:
        return "unknown"


VERSION = _version()
CREATED_WITH = f"H-Space Steering {VERSION}"
