"""Write the editor workflow files in `workflows/` from short descriptions: `python -P scripts/build_workflows.py`.

Slots, widget order and types come from a running server's own node definitions, so a file cannot disagree with the
nodes. Positions are given in columns; what a description says is all there is to a workflow.
"""

from __future__ import annotations

import json
import sys
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from comfy_server import ROOT, running_server

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


def discover_and_steer(flow: Workflow) -> None:
    """Find "woman" on six professions that the demo model draws as men, then steer a seventh."""
    flow.at(0)
    model, clip, vae = flow.add("HSpaceLoadDemoModel")
    flow.note(
        "### 1. A model\nThe emoji demo model needs no download. To use your own, put **Load Checkpoint** in its place "
        "and set width and height in step 3 to its native size (512 for SD 1.5, 1024 for SDXL).", height=190
    )  # fmt: skip
    flow.group("1. Model", 0)

    first = len(flow.nodes)
    professions = ("firefighter", "scientist", "police officer", "mechanic", "pilot", "construction worker")
    pairs = []
    for column, (title, prompt) in enumerate((("concept", "a woman {}"), ("base", "a {}"))):
        flow.at(1 + 2 * column)
        prompts = [
            flow.add("CLIPTextEncode", title, (300, 96), clip=clip, text=prompt.format(p))[0] for p in professions
        ]
        flow.at(2 + 2 * column)
        combined = prompts[0]
        for other in prompts[1:]:
            (combined,) = flow.add(
                "ConditioningCombine", None, (300, 60), conditioning_1=combined, conditioning_2=other
            )
        pairs.append(combined)
    flow.at(4, 5 * (60 + TITLE_HEIGHT + ROW))
    flow.note(
        "### 2. Pairs of prompts\nLeft with the concept, right without it, in the same order. The vector learns what "
        "the right side leaves out. Several pairs make it carry over to other prompts.", height=150
    )  # fmt: skip
    flow.group("2. Prompts: with the concept, and without", first)

    first = len(flow.nodes)
    flow.at(5)
    vector, plot, samples = flow.add(
        "HSpaceDiscoverConcept", None, (320, 470), model=model, concept=pairs[0], base=pairs[1], name="woman", width=128, height=128,
    )  # fmt: skip
    flow.add("HSpaceSaveConcept", None, (320, 84), concept=vector, filename_prefix="demo/woman")
    flow.note(
        "### 3. Discover\nWatch the preview: it shows what the model draws under the right-hand prompts, steered by "
        "the vector so far. Lower **batch_size** if memory runs out. The vector is saved in models/concept_vectors.", 320, 190
    )  # fmt: skip
    flow.at(6)
    flow.add("SaveImage", "Loss plot", (320, 330), images=plot, filename_prefix="demo/loss_plot")
    (learnt,) = flow.add("VAEDecode", None, (320, 60), samples=samples, vae=vae)
    flow.add("PreviewImage", "Images drawn while learning", (320, 330), images=learnt)
    flow.group("3. Discover", first)

    first = len(flow.nodes)
    flow.at(7)
    (prompt,) = flow.add("CLIPTextEncode", "a prompt it has not seen", (320, 96), clip=clip, text="a judge")
    (negative,) = flow.add("CLIPTextEncode", "negative", (320, 96), clip=clip, text="")
    (latent,) = flow.add("EmptyLatentImage", None, (320, 130), width=128, height=128, batch_size=16)
    steered, _ = flow.add("HSpaceApplySteering", None, (320, 230), model=model, concept=vector, strength=STRENGTH)
    flow.note(
        "### 4. Steer\nThe same seeds twice: plain, and with the vector added. Raise **strength** for more of the "
        "concept, make it negative for less, set it to 0 for none.", 320, 150
    )  # fmt: skip
    flow.at(8)
    for title, source, name in (("Unsteered", model, "unsteered"), ("Steered", steered, "steered")):
        (drawn,) = flow.add("KSampler", title, (320, 262), model=source, positive=prompt, negative=negative, latent_image=latent,
                            seed=1, steps=20, cfg=4.0, sampler_name="euler", scheduler="normal")  # fmt: skip
        (image,) = flow.add("VAEDecode", None, (320, 60), samples=drawn, vae=vae)
        flow.add("SaveImage", title, (320, 330), images=image, filename_prefix=f"demo/{name}")
    flow.group("4. Steer", first)


STRENGTH = 1.0
WORKFLOWS = (discover_and_steer,)

if __name__ == "__main__":
    with running_server() as server:
        object_info = json.loads(urllib.request.urlopen(f"{server.url}/object_info").read())
    for build in WORKFLOWS:
        workflow = Workflow(object_info)
        build(workflow)
        workflow.write(build.__name__)
        print(f"workflows/{build.__name__}.json")
