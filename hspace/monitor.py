"""What a node shows while and after it runs: progress bar, live preview, a line of text."""

from __future__ import annotations

import sys

import comfy.utils

from .comfy_compat import previewer_for
from .learner import Progress


class ProgressMonitor:
    """A discovery listener: moves ComfyUI's progress bar and shows what the sampler sees.

    ComfyUI checks for a cancel in the same call, so cancelling takes effect within one step.
    """

    def __init__(self, model, steps: int):
        self.previewer = previewer_for(model)
        self.bar = comfy.utils.ProgressBar(steps)

    @property
    def shows_pictures(self) -> bool:
        """False where the user has previews switched off, and drawing them would be time lost."""
        return self.previewer is not None

    def __call__(self, progress: Progress) -> None:
        preview = None
        if self.previewer is not None and progress.preview is not None:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", progress.preview)
        self.bar.update_absolute(progress.step, progress.steps, preview)


def show_on_node(text: str, node_id: str | None) -> None:
    """Show a line under the widgets of a node in the editor; nothing where there is no editor, as in a script."""
    if "server" in sys.modules and node_id is not None:
        sys.modules["server"].PromptServer.instance.send_progress_text(text, node_id)
