"""H-Space Steering: discover concepts in a diffusion model's bottleneck (h-space) and steer with them.

Needs ComfyUI's folder on the Python path, but neither its server nor its editor.
"""

from . import comfy_compat  # first: it chooses the CPU where there is no accelerator
from .concepts import NOTHING, Choice, Concept, Provenance, Sum, Sweep, UnfinishedVector, Varied, Vector
from .discovery import DiscoverySettings, Observer, PromptPairs, discover
from .files import import_paper_concept, load_concept, save_concept
from .steering import apply_steering, steer_conditioning
from .version import VERSION as __version__

__all__ = [
    "NOTHING",
    "Choice",
    "Concept",
    "DiscoverySettings",
    "Observer",
    "PromptPairs",
    "Provenance",
    "Sum",
    "Sweep",
    "UnfinishedVector",
    "Varied",
    "Vector",
    "__version__",
    "apply_steering",
    "comfy_compat",
    "discover",
    "import_paper_concept",
    "load_concept",
    "save_concept",
    "steer_conditioning",
]
