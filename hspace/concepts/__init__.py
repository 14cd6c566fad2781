"""Concepts: vectors, the algebra over them, their allocation to images, and the provenance of vectors."""

from .allocation import parse_weights
from .assignment import Assignment, image_labels
from .by_site import coefficients_by_site
from .choice import Choice
from .concept import NOTHING, Concept, Sum
from .finite import check_finite
from .normalised import NormalisedSum
from .provenance import VERDICTS, Provenance
from .quoting import NOT_IN_ONE_LINE, quoted, shortened
from .resizing import resize_vector
from .response import MAX_RANK, Response, side_by_side
from .sweep import Sweep
from .varied import Varied
from .vector import UnfinishedVector, Vector

__all__ = [
    "MAX_RANK",
    "NOTHING",
    "NOT_IN_ONE_LINE",
    "VERDICTS",
    "Assignment",
    "Choice",
    "Concept",
    "NormalisedSum",
    "Provenance",
    "Response",
    "Sum",
    "Sweep",
    "UnfinishedVector",
    "Varied",
    "Vector",
    "check_finite",
    "coefficients_by_site",
    "image_labels",
    "parse_weights",
    "quoted",
    "resize_vector",
    "shortened",
    "side_by_side",
]
