"""Editor workflow files from short descriptions.

Slots, widget order and types come from a running server's own node definitions, so a file cannot disagree with the
nodes. Positions are given in columns; what a description says is all there is to a workflow.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .comfyui import ROOT

COLUMN, ROW = 380, 30
TITLE_HEIGHT, GROUP_MARGIN = 34, 14
LOAD_BOX = (300, 230)  # with room for the lines that say what the vector is
INPUT_NODE, OUTPUT_NODE = -10, -20
LINK_KEYS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass(frozen=True)
class Out:
    """Output `slot` of a node."""

    node: int
    slot: int
    type: str


@dataclass
class Workflow:
    """A workflow under construction; nodes stack downwards in the current column of the current group.

    Attributes:
        definitions: of all nodes, as a server lists them.
        root: the folder that its file is written below.
    """

    definitions: dict
    root: Path = ROOT
    nodes: list[dict] = field(default_factory=list)
    links: list[list] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)
    extra: dict = field(default_factory=dict)
    x: float = 0
    y: float = 0

    def at(self, column: float, row: float = 0) -> None:
        """Go to the top of a column."""
        self.x, self.y = column * COLUMN, row

    def add(
        self, kind: str, title: str | None = None, box: tuple[int, int | None] = (300, None), **inputs
    ) -> list[Out]:
        """A node; an `Out` links an input, anything else is a widget's value. Returns its outputs."""
        definition = self.definitions[kind]
        number = len(self.nodes) + 1
        slots, values = [], []
        specs = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
        unknown = set(inputs) - set(specs)
        if unknown:
            raise ValueError(f"{kind} has no input {sorted(unknown)}")
        for name, spec in specs.items():
            options = spec[1] if len(spec) > 1 else {}
            if isinstance(inputs.get(name), Out) or not _is_widget(spec):
                slots.append(
                    {
                        "name": name,
                        "type": spec[0] if isinstance(spec[0], str) else "COMBO",
                        "link": self._link(inputs.get(name), number, len(slots)),
                    }
                )
            else:
                choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
                values.append(inputs.get(name, options.get("default", choices[0] if choices else "")))
                if options.get("control_after_generate"):
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
        outputs = [
            {"name": name, "type": type_, "links": []}
            for name, type_ in zip(definition["output_name"], definition["output"], strict=True)
        ]
        multiline = sum(1 for spec in specs.values() if len(spec) > 1 and spec[1].get("multiline"))
        width, height = box
        height = height or 40 + 22 * max(len(slots), len(outputs)) + 26 * len(values) + 60 * multiline
        self._place(number, kind, title, slots, outputs, values, width, height)
        return [Out(number, slot, output["type"]) for slot, output in enumerate(outputs)]

    def note(self, text: str, width: int = 300, height: int = 150) -> None:
        """A note in plain words."""
        self._place(
            len(self.nodes) + 1, "MarkdownNote", None, [], [], [text], width, height, color="#432", bgcolor="#653"
        )

    def group(self, title: str, first: int) -> None:
        """A titled frame around all nodes from number `first` on."""
        boxes = [(*node["pos"], *node["size"]) for node in self.nodes[first:]]
        left, top = min(b[0] for b in boxes) - GROUP_MARGIN, min(b[1] for b in boxes) - TITLE_HEIGHT - 44
        right, bottom = max(b[0] + b[2] for b in boxes) + GROUP_MARGIN, max(b[1] + b[3] for b in boxes) + GROUP_MARGIN
        self.groups.append(
            {
                "id": len(self.groups) + 1,
                "title": title,
                "bounding": [left, top, right - left, bottom - top],
                "color": "#3f789e",
                "font_size": 24,
                "flags": {},
            }
        )

    def as_app(self, inputs: list[tuple[Out, str]], outputs: list[int], labels: Mapping[str, str]) -> None:
        """What editors from 1.41 on show in app mode; older ones keep it and show nothing.

        Args:
            inputs: widgets, each by an output of its node and its name.
            outputs: numbers of the nodes whose images are the results.
            labels: what to call a widget, where its name says too little.
        """
        for out, widget in inputs:
            if widget in labels:
                slot = {"name": widget, "type": "STRING", "widget": {"name": widget}, "label": labels[widget]}
                self.nodes[out.node - 1]["inputs"].append({**slot, "link": None})
        self.extra = {
            "linearMode": False,  # opens as a graph; one click away from the app
            "linearData": {
                "inputs": [[str(out.node), widget] for out, widget in inputs],
                "outputs": [str(number) for number in outputs],
            },
        }

    def write(self, name: str) -> None:
        """`workflows/<name>.json`."""
        content = {
            "id": _identity(name),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": self.extra,
            "version": 0.4,
        }
        self._write("workflows", name, content)

    def write_blueprint(
        self, name: str, text: str, into: tuple[str, int, str], out_of: list[Out], widgets: list[tuple[Out, str]]
    ) -> None:
        """`subgraphs/<name>.json`: all nodes in one, which the editor offers among the nodes as `name`.

        Args:
            text: what it does, shown under its name.
            into: the one input: its name, and the node and the input that it goes to.
            out_of: its outputs.
            widgets: which widgets it shows: a node, by one of its outputs, and the name of the widget.
        """
        input_name, target, target_input = into
        slot = next(i for i, found in enumerate(self.nodes[target - 1]["inputs"]) if found["name"] == target_input)
        kind = self.nodes[target - 1]["inputs"][slot]["type"]
        links = [[len(self.links) + 1, INPUT_NODE, 0, target, slot, kind]]
        self.nodes[target - 1]["inputs"][slot]["link"] = links[0][0]
        outputs = []
        for index, out in enumerate(out_of):
            source = self.nodes[out.node - 1]["outputs"][out.slot]
            links.append([len(self.links) + 2 + index, out.node, out.slot, OUTPUT_NODE, index, out.type])
            source["links"].append(links[-1][0])
            outputs.append(_socket(name, source["name"], out.type, links[-1][0]))
        links = [dict(zip(LINK_KEYS, link, strict=True)) for link in [*self.links, *links]]
        right = max(node["pos"][0] + node["size"][0] for node in self.nodes) + 60
        inner = {
            "id": _identity(name),
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": len(self.nodes),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": name,
            "inputNode": {"id": INPUT_NODE, "bounding": [-200, 0, 120, 60]},
            "outputNode": {"id": OUTPUT_NODE, "bounding": [right, 0, 120, 40 + 20 * len(outputs)]},
            "inputs": [_socket(name, input_name, kind, len(self.links) + 1)],
            "outputs": outputs,
            "widgets": [],
            "nodes": self.nodes,
            "groups": self.groups,
            "links": links,
            "extra": {},
        }
        outer = {
            "id": 1,
            "type": inner["id"],
            "pos": [0, 0],
            "size": [320, 60 + 26 * (len(widgets) + len(outputs))],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": input_name, "type": kind, "link": None}],
            "outputs": [{"name": socket["name"], "type": socket["type"], "links": []} for socket in outputs],
            "properties": {"proxyWidgets": [[str(out.node), widget] for out, widget in widgets]},
            "widgets_values": [],
        }
        content = {
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [outer],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [inner]},
            "extra": {"BlueprintDescription": text},
        }
        self._write("subgraphs", name, content)

    def _write(self, folder: str, name: str, content: dict) -> None:
        (self.root / folder).mkdir(exist_ok=True)
        (self.root / folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")

    def _place(self, number, kind, title, slots, outputs, values, width, height, **look):
        node = {
            "id": number,
            "type": kind,
            "pos": [self.x, self.y],
            "size": [width, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": slots,
            "outputs": outputs,
            "properties": {"Node name for S&R": kind},
            "widgets_values": values,
            **look,
        }
        if title:
            node["title"] = title
        self.nodes.append(node)
        self.y += height + TITLE_HEIGHT + ROW

    def _link(self, source: Out | None, node: int, slot: int) -> int | None:
        if source is None:
            return None
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, node, slot, source.type])
        self.nodes[source.node - 1]["outputs"][source.slot]["links"].append(number)
        return number


def load_vector(flow: Workflow, name: str) -> Out:
    """Load Concept Vector with one of the shipped vectors, e.g. "no_weapon"; returns its output."""
    (vector,) = flow.add(
        "HSpaceLoadConcept", name.replace("_", " "), LOAD_BOX, concept_name=f"emoji_{name}.safetensors"
    )
    return vector


def _identity(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"h-space-steering/{name}"))


def _socket(blueprint: str, name: str, kind: str, link: int) -> dict:
    return {"id": _identity(f"{blueprint}/{name}"), "name": name, "type": kind, "linkIds": [link]}


def _is_widget(spec) -> bool:
    return isinstance(spec[0], list) or (
        spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") and not (len(spec) > 1 and spec[1].get("forceInput"))
    )
