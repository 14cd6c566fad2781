"""Makes `builders.py` importable as `hspace_composition`, as the root conftest does with its helpers."""

from pathlib import Path

from hspace_test_helpers import load_by_path

load_by_path("hspace_composition", Path(__file__).with_name("builders.py"))
