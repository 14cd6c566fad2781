"""Everything that the pack uses of ComfyUI and that ComfyUI does not offer to node authors as an interface.

What stock nodes do through methods of `ModelPatcher`, `comfy.sample`, `comfy.samplers`, `comfy.utils`, `comfy.hooks` and
`folder_paths` is used where it is needed. The rest is here, so that a change in ComfyUI is met in one place: by asking
what is there, never by version numbers.
"""

from __future__ import annotations

import comfy.model_patcher
import comfy.samplers
import latent_preview
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

DECODER_ENTRANCE = ("output", 0)
"""`transformer_options["block"]` where an output-block patch sees h as the decoder gets it."""


def unet_of(model) -> torch.nn.Module:
    """The diffusion model of a ModelPatcher, compiled or not."""
    return _uncompiled(model.get_model_object("diffusion_model"))


def _uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    return getattr(module, "_orig_mod", module)  # torch.compile keeps the module there


def decoder_layers(model) -> list[torch.nn.Module]:
    """The residual and attention layers of the decoder of a BaseModel."""
    return [layer for block in _uncompiled(model.diffusion_model).output_blocks for layer in block]


def is_unet(module: torch.nn.Module) -> bool:
    """Whether it is a U-Net of the Stable Diffusion kind."""
    return isinstance(module, UNetModel)


def original_weight(model, key: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight as it came from the file: while a LoRA or a merge is loaded, that is in a backup which clones share."""
    backup = getattr(model, "backup", {}).get(key)
    return weight if backup is None else backup.weight


def compute_dtype(model) -> torch.dtype:
    """What a BaseModel computes in, which is not what its weights are stored in where layers cast them."""
    cast = getattr(model, "manual_cast_dtype", None)
    return model.get_dtype() if cast is None else cast


def put_first(options: dict, patch) -> None:
    """Make `patch` the first output-block patch of these transformer_options; `set_model_output_block_patch` appends.

    The first sees h before patches that change it in place (FreeU), whatever the order of the nodes. Lists and dicts that
    were there are left as they are.
    """
    patches = dict(options.get("patches", {}))
    patches["output_block_patch"] = [patch, *patches.get("output_block_patch", [])]
    options["patches"] = patches


def clone_options(options: dict) -> dict:
    """A copy of model options that can be changed without changing the original."""
    return comfy.model_patcher.create_model_options_clone(options)


def use_differentiable_attention(options: dict) -> None:
    """Make these transformer_options use PyTorch's attention: xformers, sage and flash lack a usable backward."""
    options["optimized_attention_override"] = differentiable_attention


def differentiable_attention(func, *args, **kwargs):
    """An `optimized_attention_override`."""
    return attention_pytorch(*args, **kwargs)


def denoise(
    model, branches: list[list[dict]], x: torch.Tensor, sigma: torch.Tensor, options: dict
) -> list[torch.Tensor]:
    """Denoised x0 of a BaseModel under each of several prepared conds, which ComfyUI batches as memory allows."""
    return comfy.samplers.calc_cond_batch(model, branches, x, sigma, options)


def map_cond(entry, function):
    """A prepared cond (`comfy.conds.CONDRegular` and so on) with its value changed; anything else as it is."""
    if hasattr(entry, "_copy_with") and hasattr(entry, "cond"):
        return entry._copy_with(function(entry.cond))
    return entry


def concatenate_conds(entries: list):
    """Several prepared conds as one, batch after batch; repeats tokens where their numbers differ, as ComfyUI does."""
    return entries[0]._copy_with(entries[0].concat(entries[1:]))


def previewer_for(model):
    """ComfyUI's latent previewer for a ModelPatcher, or None where the user has previews switched off."""
    return latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))
