"""H-Space Steering: discover concepts in a diffusion model's bottleneck and steer with them, inside ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .hspace.files import register_folder

register_folder()  # before the nodes, whose combo boxes list the folder's files


class HSpaceExtension(ComfyExtension):
    """The nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import balance, card, compose, demo, discover, pairs, probe, steer, strengths, strip, vectors

        modules = (pairs, discover, vectors, compose, strengths, steer, probe, balance, card, strip, demo)
        return [node for module in modules for node in module.NODES]


async def comfy_entrypoint() -> HSpaceExtension:
    """What ComfyUI calls to load the pack."""
    from .nodes.wiring import watch_prompts

    watch_prompts()
    return HSpaceExtension()
