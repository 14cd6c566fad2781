"""Texts behind a conditioning, for the metadata: CONDITIONING carries embeddings only, the workflow the words."""

from __future__ import annotations

MAX_LENGTH = 2000


def prompt_texts(prompt: dict | None, node_id: str | None) -> dict[str, str]:
    """`concept_prompt`, `base_prompt` and `avoid_prompt` of a Discover node, from the API-format prompt of its run."""
    inputs = (prompt or {}).get(str(node_id), {}).get("inputs", {})
    texts = {}
    for role in ("concept", "base", "avoid"):
        prompts = list(dict.fromkeys(_texts(prompt or {}, inputs.get(role), set())))
        if prompts:
            texts[f"{role}_prompt"] = " | ".join(prompts)[:MAX_LENGTH]
    return texts


def _texts(prompt: dict, link, visited: set) -> list[str]:
    """Every `text` widget upstream of a link `[node id, output]`, in the order of the inputs."""
    if not (isinstance(link, list) and len(link) == 2) or str(link[0]) in visited:
        return []
    visited.add(str(link[0]))
    inputs = prompt.get(str(link[0]), {}).get("inputs", {})
    texts = []
    for name, value in inputs.items():
        if name == "text" and isinstance(value, str):
            texts.append(value)
        else:
            texts += _texts(prompt, value, visited)
    return texts
