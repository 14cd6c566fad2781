"""Makes `builders.py` importable as `hspace_composition`, as the root conftest does with its helpers."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("hspace_composition", Path(__file__).with_name("builders.py"))
builders = importlib.util.module_from_spec(spec)
sys.modules["hspace_composition"] = builders
spec.loader.exec_module(builders)
