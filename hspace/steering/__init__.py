"""Add concepts in h-space while any sampler runs: to a whole model, or to one conditioning."""

from .apply import apply_steering
from .curve import SCHEDULES
from .hook import steer_conditioning
from .patch import HALVES

__all__ = ["HALVES", "SCHEDULES", "apply_steering", "steer_conditioning"]
