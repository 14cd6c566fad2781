"""Everything that the pack uses of ComfyUI and that ComfyUI does not offer to node authors as an interface.

What stock nodes do through methods of `ModelPatcher`, `comfy.sample`, `comfy.samplers`, `comfy.model_sampling`,
`comfy.utils`, `comfy.hooks` and `folder_paths` is used where it is needed. The rest is here, so that a change in
ComfyUI is met in one place: by asking what is there, never by version numbers. What concerns weights is in
`comfy_weights.py`.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch


def _choose_cpu_without_accelerator() -> None:
    """Do what `--cpu` does, where nothing has started ComfyUI yet and torch has no accelerator.

    ComfyUI's model management looks for a GPU when it is first imported, and fails where there is none.
    """
    if "comfy.model_management" not in sys.modules:
        from comfy.cli_args import args

        args.cpu = args.cpu or not getattr(torch, "accelerator", torch.cuda).is_available()


_choose_cpu_without_accelerator()

import comfy.conds  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy.samplers  # noqa: E402
import latent_preview  # noqa: E402
from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

DECODER = "output"
"""`transformer_options["block"]` is (this, site) where an output-block patch sees h enter a decoder block."""
ROLE_KEY = "hspace_role"
"""Key of a conditioning's options that says which part it plays in discovery."""
_NOT_MERGEABLE = ("control", "gligen", "hooks", "start_percent", "end_percent", "timestep_start", "timestep_end")


@dataclass(frozen=True)
class UnetStructure:
    """The structure of a U-Net, in the terms of ComfyUI's model detection.

    Attributes:
        config_name: class of the model configuration, e.g. "SDXL".
        decoder: channels of h, and latent pixels per pixel of h, where h enters each block; the bottleneck first.
        temporal: true for video models.
        native_size: of its images in pixels, where the configuration says it; 0 where not.
    """

    config_name: str
    decoder: tuple[tuple[int, int], ...]
    channel_mult: tuple[int, ...]
    context_dim: int | None
    transformer_depth: tuple[int, ...]
    transformer_depth_middle: int | None
    temporal: bool
    native_size: int = 0


def unet_structure(model) -> UnetStructure:
    """The structure of a ModelPatcher's U-Net.

    Raises:
        ValueError: the model is not a U-Net of the Stable Diffusion kind.
    """
    unet = unet_of(model)
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"model: {type(model.model).__name__} ({type(unet).__name__}) has no U-Net bottleneck to steer. "
            "Supported are SD 1.x, 2.x, SDXL, SSD-1B, Segmind Vega, KOALA, SVD and fine-tunes: load one of those."
        )
    family, config = type(model.model.model_config), model.model.model_config.unet_config
    return UnetStructure(
        config_name=family.__name__,
        decoder=_decoder_entrances(unet),
        channel_mult=tuple(unet.channel_mult),
        context_dim=config.get("context_dim"),
        transformer_depth=tuple(config.get("transformer_depth", ())),
        transformer_depth_middle=config.get("transformer_depth_middle"),
        temporal=bool(config.get("use_temporal_attention")),
        native_size=getattr(family, "native_size", 0),  # of the class: the object itself warns of what it lacks
    )


def _decoder_entrances(unet: UNetModel) -> tuple[tuple[int, int], ...]:
    """See `UnetStructure.decoder`. A level has one block more in the decoder than in the encoder."""
    channels, entrances = unet.model_channels * unet.channel_mult[-1], []
    for level, multiplier in reversed(list(enumerate(unet.channel_mult))):
        for _ in range(unet.num_res_blocks[level] + 1):
            entrances.append((channels, 2**level))
            channels = unet.model_channels * multiplier
    return tuple(entrances)


def unet_of(model) -> torch.nn.Module:
    """The diffusion model of a ModelPatcher, compiled or not."""
    return uncompiled(model.get_model_object("diffusion_model"))


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, where `torch.compile` has wrapped it."""
    return getattr(module, "_orig_mod", module)


def last_convolution(model) -> torch.Tensor:
    """The weights of the U-Net's last convolution as they came from the file.

    While a LoRA or a merge is loaded, those are in a backup, which clones share.
    """
    backup, unet = getattr(model, "backup", {}).get("diffusion_model.out.2.weight"), cast(Any, unet_of(model))
    return unet.out[2].weight if backup is None else backup.weight


def model_type_name(model) -> str:
    """ComfyUI's own name for what a ModelPatcher's model predicts, in lower case."""
    return model.model.model_type.name.lower()


def patched_weights(model) -> int:
    """The number of weights of a ModelPatcher that LoRAs or merges change."""
    return len(model.patches)


def compute_dtype(model) -> torch.dtype:
    """The dtype that a BaseModel computes in; its weights may be stored in another, which layers cast."""
    manual_cast = getattr(model, "manual_cast_dtype", None)
    return model.get_dtype() if manual_cast is None else manual_cast


def put_first(options: dict, patch) -> None:
    """Make `patch` the first output-block patch of these transformer_options; `set_model_output_block_patch` appends.

    The first sees h before patches that change it in place (FreeU), whatever the order of the nodes. Lists and dicts
    that were there are left as they are.
    """
    patches = dict(options.get("patches", {}))
    patches["output_block_patch"] = [patch, *patches.get("output_block_patch", [])]
    options["patches"] = patches


def set_wrapper(options: dict, kind: str, key: str, wrapper: Callable) -> None:
    """Make `wrapper` the only one under `key` for this kind of call (`WrappersMP`) in these transformer_options."""
    options.setdefault("wrappers", {}).setdefault(kind, {})[key] = [wrapper]


def clone_options(options: dict) -> dict:
    """A copy of model options that can be changed without changing the original."""
    return comfy.model_patcher.create_model_options_clone(options)


def on_one_device(options: dict) -> dict:
    """Model options of a run that stays on one GPU: with CFG split over several, threads compute without gradients."""
    return {key: value for key, value in options.items() if key not in ("multigpu_clones", "multigpu_thread_pool")}


def use_differentiable_attention(options: dict) -> None:
    """Make these transformer_options use PyTorch's attention: xformers, sage and flash lack a usable backward."""
    options["optimized_attention_override"] = differentiable_attention


def differentiable_attention(func, *args, **kwargs):
    """An `optimized_attention_override`."""
    return attention_pytorch(*args, **kwargs)


def denoise(model, conds: list[list[dict]], x: torch.Tensor, sigma: torch.Tensor, options: dict) -> list[torch.Tensor]:
    """Denoised x0 of a BaseModel under each of several prepared conds, which ComfyUI batches as memory allows."""
    return comfy.samplers.calc_cond_batch(model, conds, x, sigma, options)


def with_role(conditioning: list, role: str) -> list:
    """A CONDITIONING whose entries carry a role, which `conds_by_role` finds again."""
    return [[embedding, {**options, ROLE_KEY: role}] for embedding, options in conditioning]


def conds_by_role(conds: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The prepared conds of a guider by the role that their conditionings were given."""
    roles: dict[str, list[dict]] = {}
    for entries in conds.values():
        for cond in entries:
            roles.setdefault(cond[ROLE_KEY], []).append(cond)
    return roles


def mergeable(conds: list[dict]) -> bool:
    """True where prepared conds can share one batch."""
    return all(cond.get(key) is None for cond in conds for key in _NOT_MERGEABLE)


def carries_image(conds: list[dict]) -> bool:
    """True where a prepared cond brings an image of its own, of one size, as inpainting models' do."""
    return any("c_concat" in cond["model_conds"] for cond in conds)


def merge_conds(conds: list[dict]) -> list[dict]:
    """One prepared cond that gives image i of a batch `conds[i]`, as the list that a guider holds for one half of CFG.

    Every tensor in it gets a batch dimension of `len(conds)`, which ComfyUI maps to images one to one. Tokens are
    repeated where their numbers differ, as ComfyUI does.
    """
    if all(cond is conds[0] for cond in conds):
        return [conds[0]]
    prepared = {key: _merge([cond["model_conds"][key] for cond in conds]) for key in conds[0]["model_conds"]}
    return [{**conds[0], "model_conds": prepared}]


def _merge(entries: list):
    if not isinstance(entries[0].cond, torch.Tensor):
        return entries[0]
    rows = [
        map_cond(entry, lambda cond, place=place: cond if cond.shape[0] == 1 else cond[place : place + 1])
        for place, entry in enumerate(entries)
    ]
    return rows[0]._copy_with(rows[0].concat(rows[1:]))


def map_cond(entry, function):
    """A prepared cond (`comfy.conds.CONDRegular` and so on) with its value changed; anything else as it is."""
    if hasattr(entry, "_copy_with") and hasattr(entry, "cond"):
        return entry._copy_with(function(entry.cond))
    return entry


def give_each_cond_a_uuid(conds: dict[str, list[dict]]) -> None:
    """Give every conditioning of a run a uuid of its own, the positive ones keeping theirs.

    For a conditioning with an area, ComfyUI makes a copy for the other half of CFG and leaves it the same uuid. `conds`
    are the run's own lists, so that nobody else's conditionings change.
    """
    known = {cond["uuid"] for cond in conds.get("positive", ())}
    for name, entries in conds.items():
        if name == "positive":
            continue
        for index, cond in enumerate(entries):
            if cond["uuid"] in known:
                entries[index] = {**cond, "uuid": uuid.uuid4()}
            known.add(entries[index]["uuid"])


def carries_hook(cond: dict, hook) -> bool:
    """True where a prepared cond carries this hook."""
    hooks = cond.get("hooks")
    return hooks is not None and hooks.contains(hook)


def remove_hook(cond: dict, hook) -> None:
    """Take a hook off a prepared cond; other conds with the same group keep it."""
    rest = cond["hooks"].clone()
    rest.remove(hook)
    cond["hooks"] = rest if len(rest) else None


def window_indices(transformer_options: dict) -> tuple[int, ...] | None:
    """The images of the run that a context window over images shows the model, with the one that newer versions put
    before them; None where there is no such window.
    """
    window = transformer_options.get("context_window")
    if window is None or window.dim:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    return tuple(window.index_list) if anchor is None or anchor < 0 else (anchor, *window.index_list)


def previewer_for(model):
    """ComfyUI's latent previewer for a ModelPatcher, or None where the user has previews switched off."""
    return latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))


def clip_text_towers(clip) -> dict[str, object]:
    """`SDClipModel`s of a CLIP object by ComfyUI's keys: "l" (ViT-L, in SD 1.x and SDXL), "h" (SD 2.x), "g" (SDXL)."""
    towers = {key: getattr(clip.cond_stage_model, f"clip_{key}", None) for key in ("l", "h", "g")}
    return {key: tower for key, tower in towers.items() if tower is not None}


def text_projection(tower) -> torch.Tensor:
    """The weights `[width, width]` of a text tower's projection into the space that it shares with images."""
    return tower.transformer.text_projection.weight.detach()


def projected_texts(clip, tower, tokens: list) -> torch.Tensor:
    """float32 `[n, width]` on the CPU: the pooled and projected output of a text tower for n tokenised texts."""
    clip.cond_stage_model.reset_clip_options()
    # The encoders of SD 1.x leave the projection out; ComfyUI resets this before its own next use.
    tower.set_clip_options({"projected_pooled": True})
    return torch.cat([tower.encode_token_weights(token)[1] for token in tokens]).float().cpu()


def vision_projection(clip_vision) -> torch.Tensor | None:
    """The weights `[width, hidden]` of a vision tower's projection; None where it has none (SigLIP, DINOv2)."""
    projection = getattr(clip_vision.model, "visual_projection", None)
    return projection.weight if isinstance(projection, torch.nn.Linear) else None
