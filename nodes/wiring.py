"""What a graph gives away before it runs: a vector that is on its way to a model of another family.

ComfyUI lets a node look at its own widgets when a prompt is queued, and a pack at the whole prompt just before. The two
meet here, so that Load Concept Vector can be refused at once, and not after a checkpoint has been loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import folder_paths

from ..hspace.bottleneck import family_of
from ..hspace.comfy_weights import unet_structure_in_file
from .base import SearchableNode

LOADERS = {
    "CheckpointLoaderSimple": ("checkpoints", "ckpt_name"),
    "CheckpointLoader": ("checkpoints", "ckpt_name"),
    "ImageOnlyCheckpointLoader": ("checkpoints", "ckpt_name"),
    "unCLIPCheckpointLoader": ("checkpoints", "ckpt_name"),
    "UNETLoader": ("diffusion_models", "unet_name"),
}
"""Nodes that load a model from one file: the folder, and the widget that names the file."""
DEMO_MODEL = "HSpaceLoadDemoModel"
STEERED_PROMPT = "HSpaceSteerConditioning"
PROMPT_INPUTS = ("positive", "conditioning")
"""Inputs of samplers and guiders whose prompt is always sampled; the negative one is not where CFG is 1."""
Link = tuple[str, int]
_queued: ContextVar[Mapping] = ContextVar("hspace_queued_prompt", default=MappingProxyType({}))


@cache
def watch_prompts() -> None:
    """Ask the server to be shown each prompt that is queued; does nothing where there is none, as in a script."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None:
        server.add_on_prompt_handler(_note)


def _note(request: dict) -> dict:
    """Keep a queued prompt for the validation that follows in the same request, and leave it as it is."""
    _queued.set(request)
    return request


def other_family(node_id: str | None, name: str, family: str) -> str:
    """What to say where a vector of a family goes to a model of another one; "" where it fits or cannot be told.

    Args:
        node_id: of the node that loads the vector.
        name: of the vector.
        family: of the base model that it was found on.
    """
    graph = Graph(_queued.get())
    for user, found, file in graph.models_of(node_id or ""):
        if found != family:
            kind = graph.kind(user)
            title = kind.GET_SCHEMA().display_name if issubclass(kind, SearchableNode) else kind.__name__
            return (
                f"{name} was found on {family}, but {title} (node {user}) uses {found}{f' ({file})' if file else ''}. "
                f"Choose a vector that was found on {found}, or load a model of {family}."
            )
    return ""


class Graph:
    """A prompt as the server gets it. Whatever in it is not in form is as if it were not there.

    Args:
        request: with the nodes by id under "prompt".
    """

    def __init__(self, request: Mapping):
        prompt, targets = request.get("prompt"), request.get("partial_execution_targets")
        nodes = prompt if isinstance(prompt, Mapping) else {}
        self.nodes = {key: node for key, node in nodes.items() if isinstance(node, Mapping) and self._kind(node)}
        self.links = {key: dict(self._links_of(node)) for key, node in self.nodes.items()}
        outputs = [key for key in self.nodes if getattr(self.kind(key), "OUTPUT_NODE", False)]
        runs = self._before(outputs if targets is None else [key for key in outputs if key in targets])
        self.users: dict[Link, list[tuple[str, str]]] = {}
        for key in runs:
            for name, link in self.links[key].items():
                self.users.setdefault(link, []).append((key, name))

    def kind(self, key: str) -> Any:
        """The class of a node."""
        return self._kind(self.nodes[key])

    def models_of(self, key: str) -> Iterator[tuple[str, str, str]]:
        """(node, family, file) for each model that is known, and that uses what the node `key` gives, as it is known.

        Only nodes of the pack are followed: what others make of a concept is not known.
        """
        waiting, seen = [(key, "CONCEPT_VECTOR")], set()
        while waiting:
            source = waiting.pop()
            if source in seen or source[0] not in self.nodes:
                continue
            seen.add(source)
            for user, name in self._users_of(*source):
                model = self._model_of(user)
                concept = source[1] == "CONCEPT_VECTOR"
                if concept and not issubclass(self.kind(user), SearchableNode):
                    continue
                if model and (concept or name in PROMPT_INPUTS):
                    yield from ((user, *known) for known in self._family(model))
                elif not model and (not concept or self.nodes[user].get("class_type") != STEERED_PROMPT):
                    waiting.append((user, source[1]))
                elif not model and self._is_strong(user):
                    waiting.append((user, "CONDITIONING"))

    def _users_of(self, key: str, kind: str) -> Iterator[tuple[str, str]]:
        """Nodes that will run and what they call an input that is linked to an output of this type."""
        for slot, found in enumerate(self.kind(key).RETURN_TYPES):
            if found == kind:
                yield from self.users.get((key, slot), ())

    def _is_strong(self, key: str) -> bool:
        """True where a strength is typed in that is not 0; at 0 a prompt stays what it is, whatever the family."""
        strength = self.nodes[key]["inputs"].get("strength")
        return isinstance(strength, (int, float)) and strength != 0

    def _model_of(self, key: str) -> Link | None:
        """Where the one MODEL that a node is given comes from."""
        models = self._models_of_inputs(key)
        return models[0] if len(models) == 1 else None

    def _models_of_inputs(self, key: str) -> list[Link]:
        return [link for link in self.links[key].values() if self._type_of(link) == "MODEL"]

    def _family(self, model: Link) -> list[tuple[str, str]]:
        """(family, file) of a model; empty unless all nodes that it goes back to load such a file."""
        found, waiting, seen = [], [model[0]], set()
        while waiting:
            key = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            if before := self._models_of_inputs(key):  # a LoRA, a merge, a patch: the family stays
                waiting += [source for source, _ in before]
            else:
                found.append(self._loaded(key))
        families = {family for family, _ in found}
        return found[:1] if len(families) == 1 and "" not in families else []

    def _loaded(self, key: str) -> tuple[str, str]:
        """(family, file) of the model that a node loads; ("", "") where it cannot be told."""
        kind = self.nodes[key]["class_type"]
        if kind == DEMO_MODEL:
            from ..demo.architecture import EmojiModel

            return EmojiModel.__name__, ""
        folder, widget = LOADERS.get(kind, ("", ""))
        name = self.nodes[key]["inputs"].get(widget)
        path = folder_paths.get_full_path(folder, name) if folder and isinstance(name, str) else None
        return (family_in_file(path), name) if path else ("", "")

    def _type_of(self, link: Link) -> str:
        types = self.kind(link[0]).RETURN_TYPES
        return types[link[1]] if 0 <= link[1] < len(types) else ""

    def _before(self, outputs: list[str]) -> set[str]:
        """Nodes that are needed for these, and these."""
        waiting, needed = list(outputs), set()
        while waiting:
            key = waiting.pop()
            if key not in needed:
                needed.add(key)
                waiting += [source for source, _ in self.links[key].values()]
        return needed

    def _links_of(self, node: Mapping) -> Iterator[tuple[str, Link]]:
        inputs = node.get("inputs")
        for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes and type(value[1]) is int:
                yield name, (str(value[0]), value[1])

    @staticmethod
    def _kind(node: Mapping) -> Any:
        known, kind = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}), node.get("class_type")
        return known.get(kind) if isinstance(kind, str) and isinstance(node.get("inputs"), Mapping) else None


def family_in_file(path: str) -> str:
    """The family of the model in a checkpoint, by its header; "" where it cannot be told."""
    try:
        stat = Path(path).stat()
    except OSError:
        return ""
    return _family_in_file(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _family_in_file(path: str, modified: int, size: int) -> str:
    structure = unet_structure_in_file(path)
    return "" if structure is None else family_of(structure)
