"""Add concepts in h-space while any sampler runs: to a whole model, or to one conditioning; or probe for them."""

from .apply import apply_steering
from .curve import SCHEDULES
from .hook import steer_conditioning
from .patch import HALVES, check_window
from .probe import END_PERCENT, probe_concepts
from .readings import Reading, find_reading

__all__ = [
    "END_PERCENT",
    "HALVES",
    "SCHEDULES",
    "Reading",
    "apply_steering",
    "check_window",
    "find_reading",
    "probe_concepts",
    "steer_conditioning",
]
