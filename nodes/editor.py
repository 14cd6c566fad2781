"""Output of nodes in the editor while and after they run: progress, live preview, a line of text."""

from __future__ import annotations

import contextlib
import html
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.utils
import numpy as np
import torch
from comfy_execution.utils import get_executing_context
from PIL import Image

from ..hspace.comfy_compat import previewer_for
from ..hspace.concepts import Vector
from ..hspace.discovery import Observer, Progress
from ..hspace.files import PartialFile
from ..hspace.steering import check_window

LONGEST_TEXT, LONGEST_LINE = 400, 200
STEPS_OF_A_JUDGEMENT = 5
"""How far the bar moves where a learnt vector is judged by eight images: as far as in the steps that take as long."""
_refused: set[str] = set()


def validated(cls, check: Callable[[], object]) -> bool | str:
    """What `validate_inputs` of a node returns: True, or the message of the ValueError that `check` raises.

    Args:
        cls: the node; its hidden `unique_id` says where the message is shown.
        check: raises ValueError where an input must be refused.
    """
    try:
        with refusals_shown(cls.hidden.unique_id if cls.hidden else None):
            check()
    except ValueError as error:
        return str(error)
    return True


@contextlib.contextmanager
def refusals_shown(node_id: str | None) -> Iterator[None]:
    """Show the ValueError that leaves this context on the node, until the next one begins for the same node.

    Editors do not: before 1.49 they say nothing of a node that is refused while others can run, and since then they
    say that something was wrong, and what it was only on request or not at all.
    """
    if node_id is not None and node_id in _refused:
        _refused.discard(node_id)
        _show(" ", node_id)  # editors ignore an empty text
    try:
        yield
    except ValueError as error:
        if node_id is not None:
            _refused.add(node_id)
        show_on_node(str(error), node_id)
        raise


def running_node() -> str | None:
    """The node that ComfyUI executes now; None outside of a graph."""
    context = get_executing_context()
    return None if context is None else context.node_id


def check_known_window(start_percent: float | None, end_percent: float | None) -> None:
    """`check_window` when a prompt is queued; None stands for what another node will say."""
    if start_percent is not None and end_percent is not None:
        check_window(start_percent, end_percent)


def show_on_node(text: str, node_id: str | None) -> None:
    """Show a line under the widgets of a node in the editor; does nothing where there is no editor, as in a script.

    Editors before 1.49 render the text as HTML, and names, prompts and paths in it may come from strangers' files and
    workflows. So it is escaped, made one line, and cut to `LONGEST_TEXT` characters.
    """
    if node_id is not None:
        _show(textwrap.shorten(text, LONGEST_TEXT, placeholder=" ..."), node_id)


def show_lines_on_node(lines: list[str], node_id: str | None) -> None:
    """The same for several lines, each cut to `LONGEST_LINE` characters."""
    if node_id is not None:
        _show("\n".join(textwrap.shorten(line, LONGEST_LINE, placeholder=" ...") for line in lines), node_id)


def _show(text: str, node_id: str) -> None:
    text = text.replace("[[", "[ [")  # editors make links of [[words|address]], and the words could lie
    if "server" in sys.modules:
        sys.modules["server"].PromptServer.instance.send_progress_text(html.escape(text, quote=False), node_id)


class NodeObserver(Observer):
    """Moves the progress bar of a Discover node, shows previews, and keeps the vector so far on disk.

    ComfyUI checks for a cancel when the bar moves, so cancelling takes effect within one step.

    Args:
        model: ModelPatcher that is discovered on; knows how to preview its latents.
        steps: of the discovery.
        name: of the concept, and of the file.
        preview_every: steps from one preview to the next; none are made where the user has previews switched off.
        node_id: of the node; None outside of a graph.
        judgements: how many times the learnt vector is judged by images, at most.
    """

    def __init__(self, model, steps: int, name: str, preview_every: int, node_id: str | None, judgements: int = 0):
        self.previewer = previewer_for(model)
        # Where the user watches no previews, one comparison at the end is made, for the node's output.
        self.preview_every = preview_every if self.previewer is not None else min(preview_every, 1) * steps
        self.latent_format, self._latest = model.get_model_object("latent_format"), None
        self.steps = steps
        self.bar = comfy.utils.ProgressBar(steps + STEPS_OF_A_JUDGEMENT * judgements)
        self.file, self.node_id, self._warned = PartialFile(name), node_id, False
        if self.file.renamed:
            self.note(self.file.renamed)
        try:
            self.file.check()
        except OSError as error:
            self._warn(f"The discovery of '{name}' cannot be saved while it runs, and a crash would lose it: {error}")

    def step(self, progress: Progress) -> None:
        preview, self._latest = None, progress.preview
        if self.previewer is not None:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", progress.preview)
        self.bar.update_absolute(progress.step, preview=preview)
        if self.file.due:
            self._save(progress.vector())

    def judged(self) -> None:
        self.bar.update_absolute(max(self.bar.current, self.steps) + STEPS_OF_A_JUDGEMENT)

    def note(self, text: str) -> None:
        logging.info("[H-Space Steering] %s", text)
        show_on_node(text, self.node_id)

    def stopped(self, vector: Vector) -> None:
        path = self._save(vector)
        if path is None:
            return
        message = (
            f"Discovery of '{vector.name}' stopped after {vector.provenance.steps} steps. The vector so far is in "
            f"{path}; load it and connect it to start_from to go on."
        )
        logging.warning("[H-Space Steering] %s", message)
        show_on_node(message, self.node_id)

    def finished(self, vector: Vector) -> None:
        self._clean_up()
        if text := vector.provenance.range_text():
            show_on_node(f"{vector.name}: {text}", self.node_id)

    def picture(self) -> torch.Tensor:
        """IMAGE `[1, H, W, 3]` of the last preview, decoded without a VAE as previews are."""
        if self._latest is None:
            raise RuntimeError("There is no preview before the first step.")
        latent, shape = self._latest[:1].float().cpu(), self._latest.shape[-2:]
        if self.previewer is not None:
            picture = Image.fromarray(np.asarray(self.previewer.decode_latent_to_preview(latent)))
            image = torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255
        else:
            factors = torch.tensor(self.latent_format.latent_rgb_factors)
            bias = torch.tensor(self.latent_format.latent_rgb_factors_bias or [0.0] * 3)
            image = ((latent.movedim(1, -1) @ factors + bias + 1) / 2).clamp(0, 1)
        height, width = (8 * side for side in shape)
        samples = comfy.utils.common_upscale(image.movedim(-1, 1), width, height, "bicubic", "disabled")
        return samples.movedim(1, -1).clamp(0, 1)

    def _save(self, vector: Vector) -> Path | None:
        """The vector's partial file; None, with one warning a run, where it cannot be written: the run goes on."""
        try:
            return self.file.save(vector)
        except (OSError, ValueError) as error:
            self._warn(f"The unfinished vector of '{vector.name}' cannot be saved, and a crash would lose it: {error}")
        return None

    def _clean_up(self) -> None:
        try:
            self.file.discard()
        except OSError as error:
            self._warn(f"The partial file of this discovery is no longer needed and could not be removed: {error}")

    def _warn(self, text: str) -> None:
        if not self._warned:
            logging.warning("[H-Space Steering] %s", text)
            show_on_node(text, self.node_id)
        self._warned = True


def input_types(class_type: str) -> dict[str, str]:
    """Types of the inputs of a node by name, as ComfyUI's registry of nodes has them; empty where it has none.

    Other packs' nodes are asked, and whatever they raise only means that nothing is known of them.
    """
    registry = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})
    try:
        listed = registry[class_type].INPUT_TYPES()
        groups = [listed.get(group) or {} for group in ("required", "optional")]
        return {name: str(spec[0]) for group in groups for name, spec in group.items()}
    except Exception:
        return {}
