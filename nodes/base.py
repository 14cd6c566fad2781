"""Graph types of the pack, and what all its nodes have in common."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import signature
from typing import Any

from comfy_api.latest import io

from ..hspace.concepts import check_finite
from .editor import refusals_shown, running_node

CATEGORY = "h-space"
ConceptVector = io.Custom("CONCEPT_VECTOR")
ConceptRules = io.Custom("CONCEPT_RULES")
NUMBERS = {"FLOAT", "FLOATS", "INT", "MASK", "LATENT"}
"""Types of inputs whose every number must be finite. Images are not among them: Concept Balance counts broken ones."""
_KNOWN = {field.name for field in fields(io.Schema)}


def schema(**values) -> io.Schema:
    """An `io.Schema` of what the installed ComfyUI knows of these values: newer ones have more places than 0.3.75."""
    return io.Schema(**{name: value for name, value in values.items() if name in _KNOWN})


def factor_input(name: str, default: float, tooltip: str) -> io.Float.Input:
    """A factor on the strength of a concept; negative ones steer away from it."""
    return io.Float.Input(name, default=default, min=-20.0, max=20.0, step=0.05, tooltip=tooltip)


class SearchableNode(io.ComfyNode):
    """A node that the editor's search finds by more words than its name has, and that refuses numbers that are none.

    ComfyUI sends `search_aliases` to editors that know them; schemas of ComfyUI 0.3.75 have no place for it yet. It
    compares numbers with the range of their input only where they are not linked, and nan passes that too. Inputs that
    are `ADVANCED` are rarely touched: editors that know the word keep them out of sight until asked.
    """

    SEARCH_ALIASES: tuple[str, ...] = ()
    ADVANCED: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        execute = cls.__dict__.get("execute")
        if execute is not None and not hasattr(execute.__func__, "__wrapped__"):  # ComfyUI clones node classes
            checked: Any = classmethod(_with_finite_inputs(execute.__func__))
            cls.execute = checked

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict:
        info = super().GET_NODE_INFO_V1()
        for inputs in info["input"].values():
            for name in inputs.keys() & set(cls.ADVANCED):
                inputs[name][1]["advanced"] = True
        return {**info, "search_aliases": list(cls.SEARCH_ALIASES)}


def _with_finite_inputs(execute: Callable) -> Callable:
    """`execute` of a node, after a check of its inputs; the node shows what is refused."""

    names = list(signature(execute).parameters)[1:]
    numbers: list[str] | None = None  # known with the first run: schemas list the files in folders

    @wraps(execute)
    def checked(cls, *values, **inputs):
        nonlocal numbers
        if numbers is None:
            numbers = [item.id for item in cls.define_schema().inputs if item.io_type in NUMBERS]
        inputs |= dict(zip(names, values, strict=False))
        with refusals_shown(running_node()):
            for name in numbers:
                if name in inputs:
                    check_finite(name, inputs[name])
            return execute(cls, **inputs)

    return checked
