"""Write a complete checkpoint of full size with random weights: what its images show is noise, what it costs is real.

    python -m scripts.random_checkpoint "SD 1.5" models/checkpoints/random_sd15.safetensors

Load Checkpoint takes the file as it takes any other: U-Net, text encoders and VAE under their usual names, in fp16.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from scripts.comfyui import find_comfyui

find_comfyui()

import comfy.ops  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.text_encoders.sd2_clip  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from demo.architecture import VAE_WEIGHTS  # noqa: E402

HALF = torch.float16
POOL = 1 << 22
"""Random numbers that are drawn; larger weights repeat them."""
SD = {
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
SD1 = {**SD, "context_dim": 768, "num_heads": 8}
SD2 = {**SD, "context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True}
XL = {
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
}
REDUCED = {
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
}
REDUCED_SD2 = {
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [1, 0, 0, 0, 0, 0, 0, 0],
    "transformer_depth_output": [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
}
REDUCED_XL = {"channel_mult": [1, 1, 1], "num_res_blocks": [2, 2, 2]}
"""Widths and levels that ComfyUI's model detection does not look at."""
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: ComfyUI's configuration and text encoder, and the arguments of its U-Net.

    A reduced one has a smaller U-Net and the demo model's VAE; its text encoders are of full size.
    """

    config: type
    text: type
    unet: dict
    reduced: bool = False


KINDS = {
    "SD 1.5": Kind(comfy.supported_models.SD15, comfy.sd1_clip.SD1ClipModel, SD1),
    "SD 1.5 inpainting": Kind(comfy.supported_models.SD15, comfy.sd1_clip.SD1ClipModel, {**SD1, "in_channels": 9}),
    "SD 2.1 v": Kind(comfy.supported_models.SD20, comfy.text_encoders.sd2_clip.SD2ClipModel, SD2),
    "SDXL": Kind(comfy.supported_models.SDXL, comfy.sdxl_clip.SDXLClipModel, XL),
    "SD 2.1 v reduced": Kind(
        comfy.supported_models.SD20, comfy.text_encoders.sd2_clip.SD2ClipModel, {**SD2, **REDUCED_SD2}, reduced=True
    ),
    "SD 1.5 reduced": Kind(comfy.supported_models.SD15, comfy.sd1_clip.SD1ClipModel, {**SD1, **REDUCED}, reduced=True),
    "SD 1.5 inpainting reduced": Kind(
        comfy.supported_models.SD15, comfy.sd1_clip.SD1ClipModel, {**SD1, **REDUCED, "in_channels": 9}, reduced=True
    ),
    "SDXL reduced": Kind(
        comfy.supported_models.SDXL, comfy.sdxl_clip.SDXLClipModel, {**XL, **REDUCED_XL}, reduced=True
    ),
}


def random_checkpoint(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint, fp16, as ComfyUI saves one."""
    chosen = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator).to(HALF)
    unet = UNetModel(
        image_size=32,
        model_channels=320,
        device="meta",
        operations=comfy.ops.disable_weight_init,
        **{"in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False, **chosen.unet},
    )
    with torch.device("meta"):
        text = chosen.text(device="meta", dtype=HALF)
    config = chosen.config(unet_config={})
    state = config.process_unet_state_dict_for_saving(fill(unet, pool))
    if kind.startswith("SD 2.1 v"):  # ComfyUI tells v-prediction from the spread of this bias
        bias = state["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"]
        bias.copy_(0.5 * pool[: len(bias)])
    state |= config.process_vae_state_dict_for_saving(_vae(chosen.reduced, pool))
    state |= config.process_clip_state_dict_for_saving(fill(text, pool))
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _vae(reduced: bool, pool: torch.Tensor) -> dict[str, torch.Tensor]:
    if reduced:
        return comfy.utils.load_torch_file(str(VAE_WEIGHTS), safe_load=True)
    with torch.device("meta"):
        vae = AutoencoderKL(ddconfig=VAE, embed_dim=4)
    return fill(vae, pool)


def fill(module: torch.nn.Module, pool: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights for a module that has none: layers keep the size of what passes them, norms change nothing."""
    weights = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            weights[name] = torch.arange(tensor.numel()).reshape(tensor.shape)  # ids of positions
        elif tensor.ndim < 2:
            weights[name] = torch.full(tensor.shape, float(name.endswith("weight")), dtype=HALF)
        else:
            repeated = pool.repeat(-(-tensor.numel() // POOL))[: tensor.numel()].reshape(tensor.shape)
            weights[name] = repeated / math.sqrt(tensor[0].numel())
    return weights


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    comfy.utils.save_torch_file(random_checkpoint(arguments.kind), str(arguments.file))
    print(f"{arguments.kind}: {arguments.file.stat().st_size / 1e9:.2f} GB in {arguments.file}")


if __name__ == "__main__":
    main()
