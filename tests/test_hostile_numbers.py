"""Numbers and texts that no person would type, but a shared workflow or another node may send."""

import pytest
import torch

from helpers import node_classes

NUMBERS = ("FLOAT", "INT", "MASK", "LATENT", "FLOATS")
BROKEN = [float("nan"), float("inf"), float("-inf")]
INPUTS = [
    (node_id, item.id)
    for node_id, node in node_classes().items()
    for item in node.GET_SCHEMA().inputs
    if item.io_type in NUMBERS
]


def broken_value(kind: str, number: float):
    tensor = torch.zeros(1, 4, 8, 8)
    tensor[..., 3, 3] = number
    return {"MASK": tensor[0, :1], "LATENT": {"samples": tensor}, "FLOATS": [1.0, number]}.get(kind, number)


@pytest.mark.parametrize("number", BROKEN)
@pytest.mark.parametrize(("node_id", "name"), INPUTS)
def test_no_node_takes_a_number_that_is_none(node_id, name, number):
    """Called as ComfyUI calls a node whose input is linked; nothing else of it is looked at before."""
    node = node_classes()[node_id]
    schema = node.GET_SCHEMA()
    value = broken_value(next(item.io_type for item in schema.inputs if item.id == name), number)
    clone = node.PREPARE_CLASS_CLONE({})
    with pytest.raises(ValueError, match=rf"^{name}: "):
        clone.EXECUTE_NORMALIZED(**{name: [value] if schema.is_input_list else value})
