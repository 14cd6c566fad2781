"""Editor workflow files from short descriptions.

Slots, widget order and types come from a running server's own node definitions, so a file cannot disagree with the
nodes. Positions are given in columns; what a description says is all there is to a workflow.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMN, ROW = 380, 30
TITLE_HEIGHT, GROUP_MARGIN = 34, 14


@dataclass(frozen=True)
class Out:
    """Output `slot` of a node."""

    node: int
    slot: int
    type: str


@dataclass
class Workflow:
    """A workflow under construction; nodes stack downwards in the current column of the current group."""

    definitions: dict
    nodes: list[dict] = field(default_factory=list)
    links: list[list] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)
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
                slots.append({"name": name, "type": spec[0] if isinstance(spec[0], str) else "COMBO",
                              "link": self._link(inputs.get(name), number, len(slots))})  # fmt: skip
            else:
                choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
                values.append(inputs.get(name, options.get("default", choices[0] if choices else "")))
                if options.get("control_after_generate"):
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
        outputs = [{"name": name, "type": type_, "links": []}
                   for name, type_ in zip(definition["output_name"], definition["output"], strict=True)]  # fmt: skip
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
        self.groups.append({"id": len(self.groups) + 1, "title": title, "bounding": [left, top, right - left, bottom - top],
                            "color": "#3f789e", "font_size": 24, "flags": {}})  # fmt: skip

    def write(self, name: str) -> None:
        """`workflows/<name>.json`."""
        content = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"h-space-steering/{name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        (ROOT / "workflows" / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")

    def _place(self, number, kind, title, slots, outputs, values, width, height, **look):
        node = {"id": number, "type": kind, "pos": [self.x, self.y], "size": [width, height], "flags": {},
                "order": number - 1, "mode": 0, "inputs": slots, "outputs": outputs,
                "properties": {"Node name for S&R": kind}, "widgets_values": values, **look}  # fmt: skip
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


def _is_widget(spec) -> bool:
    return isinstance(spec[0], list) or (
        spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") and not (len(spec) > 1 and spec[1].get("forceInput"))
    )
