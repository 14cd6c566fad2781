"""Texts behind a conditioning, for the metadata: CONDITIONING carries embeddings only, the workflow the words."""

from __future__ import annotations

from collections.abc import Callable, Mapping

MAX_LENGTH = 2000
InputTypes = Callable[[str], Mapping[str, str]]
"""`input_types(class_type)`: types of a node's inputs by name, e.g. "STRING"; those that are not known are missing."""
_TEXT_LINKS = ("STRING", "CONDITIONING", "*")
_TEXT_NAMES = ("text", "prompt", "string", "wildcard")


def prompt_texts(prompt: dict | None, node_id: str | None, input_types: InputTypes | None = None) -> dict[str, str]:
    """The prompts of a Discover node by field, e.g. `concept_prompt`, from the API-format prompt of its run.

    Args:
        input_types: tells texts from other values that are written as strings, such as choices; without it, and for
            inputs that it does not know, names tell them.
    """
    inputs = (prompt or {}).get(str(node_id), {}).get("inputs", {})
    texts = {}
    for role in ("concept", "base", "avoid", "keep"):
        prompts = dict.fromkeys(_texts(prompt or {}, inputs.get(role), input_types or _nothing_known, set()))
        if prompts:
            texts[f"{role}_prompt"] = " | ".join(prompts)[:MAX_LENGTH]
    return texts


def _nothing_known(class_type: str) -> Mapping[str, str]:
    return {}


def _texts(prompt: dict, link, input_types: InputTypes, visited: set) -> list[str]:
    """Every text upstream of a link `[node id, output]` that feeds an encoder, in the order of the inputs."""
    if not (isinstance(link, list) and len(link) == 2) or str(link[0]) in visited:
        return []
    visited.add(str(link[0]))
    node = prompt.get(str(link[0]), {})
    types, texts = input_types(str(node.get("class_type"))), []
    for name, value in node.get("inputs", {}).items():
        kind = types.get(name)
        if not isinstance(value, str):
            if kind is None or kind in _TEXT_LINKS:
                texts += _texts(prompt, value, input_types, visited)
        elif kind == "STRING" or (kind is None and any(word in name.lower() for word in _TEXT_NAMES)):
            texts += [value] if any(map(str.isalnum, value)) else []
    return texts
