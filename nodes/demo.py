"""Load Emoji Demo Model."""

from comfy_api.latest import io

from .base import CATEGORY, SearchableNode


class LoadDemoModel(SearchableNode):
    """A small real text-to-image model, so that every workflow of the pack runs without a checkpoint."""

    SEARCH_ALIASES = ("h-space", "example", "test", "try")

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HSpaceLoadDemoModel",
            display_name="Load Emoji Demo Model",
            category=CATEGORY,
            description="Loads the small emoji model that comes with the pack. It generates people at 128 x 128 "
            "in seconds on a CPU and is biased on purpose, so that steering has something to correct. "
            "Prompts read like 'a woman firefighter, dark skin' or 'noto emoji of a detective'.",
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The U-Net. Family: EmojiModel; vectors for SD do not fit it."),
                io.Clip.Output(tooltip="Its text encoder, with a vocabulary of about a hundred words."),
                io.Vae.Output(tooltip="Its autoencoder; use latents of 128 x 128 pixels."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..demo.loader import load_demo_model

        return io.NodeOutput(*load_demo_model())


NODES = [LoadDemoModel]
