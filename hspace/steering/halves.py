"""Which chunks of a call belong to the conditional half of classifier-free guidance."""

from __future__ import annotations


def positive_chunks(positive: frozenset | None, transformer_options: dict) -> tuple[bool, ...]:
    """For each chunk of the U-Net's batch, true where it is of the positive prompts. Chunks come in any number and
    order.

    Args:
        positive: uuids of the conditionings under the guider's name "positive"; None where the guider has none.
    """
    indices, uuids = transformer_options["cond_or_uncond"], transformer_options.get("uuids")
    if positive is None or uuids is None or len(uuids) != len(indices):
        return tuple(index == 0 for index in indices)
    return tuple(cond in positive for cond in uuids)
