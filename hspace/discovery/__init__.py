"""Find the vector that stands for a concept, with the U-Net frozen: the paper's method and a distilled one."""

from .discover import Discovery, discover
from .observer import Observer, Progress
from .prompt_pairs import PromptPairs
from .recipe import DISTILLED, PAPER, Recipe
from .settings import METHODS, SITES, DiscoverySettings, check_name
from .strength_range import StrengthRange, measure_range

__all__ = [
    "DISTILLED",
    "METHODS",
    "PAPER",
    "SITES",
    "Discovery",
    "DiscoverySettings",
    "Observer",
    "Progress",
    "PromptPairs",
    "Recipe",
    "StrengthRange",
    "check_name",
    "discover",
    "measure_range",
]
