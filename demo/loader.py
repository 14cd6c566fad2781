"""Load the emoji demo model as MODEL, CLIP and VAE that every stock node accepts."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch

from .architecture import TEXT_WEIGHTS, UNET_CONFIG, UNET_WEIGHTS, VAE_WEIGHTS, EmojiModel


def load_unet(dtype=None) -> comfy.model_patcher.ModelPatcher:
    """MODEL. `dtype` of the weights; None lets ComfyUI choose for the device, as it does for checkpoints."""
    state = comfy.utils.load_torch_file(str(UNET_WEIGHTS), safe_load=True)
    load_device = comfy.model_management.get_torch_device()
    config = EmojiModel(UNET_CONFIG)
    parameters = comfy.utils.calculate_parameters(state)
    dtype = dtype or comfy.model_management.unet_dtype(
        device=load_device, model_params=parameters, supported_dtypes=config.supported_inference_dtypes
    )
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, load_device))
    offload_device = comfy.model_management.unet_offload_device()
    model = config.get_model(state, device=offload_device)
    model.diffusion_model.load_state_dict(state)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def load_clip() -> comfy.sd.CLIP:
    """CLIP."""
    state = comfy.utils.load_torch_file(str(TEXT_WEIGHTS), safe_load=True)
    clip = comfy.sd.CLIP(
        EmojiModel(UNET_CONFIG).clip_target(),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(state),
    )
    clip.load_sd(state)
    return clip


def load_vae(dtype=None, weights: dict[str, torch.Tensor] | None = None) -> comfy.sd.VAE:
    """VAE. `dtype` as for `load_unet`; `weights` other than those of the repository."""
    weights = weights or comfy.utils.load_torch_file(str(VAE_WEIGHTS), safe_load=True)
    vae = comfy.sd.VAE(sd=weights, dtype=dtype)
    vae.first_stage_model.to(memory_format=torch.channels_last)  # takes 0.6 of the time on a CPU
    return vae


def fast_dtype() -> torch.dtype:
    """bfloat16, or float32 on a CPU that has to emulate it: six to sixty times as slow there, where it is else twice as
    fast.
    """
    device = comfy.model_management.get_torch_device()
    emulated = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return torch.float32 if emulated else torch.bfloat16


def load_sampling_model() -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE to sample many images with, in `fast_dtype`."""
    dtype = fast_dtype()
    model = load_unet(dtype)
    model.set_model_compute_dtype(dtype)  # on a CPU, ComfyUI would compute in float32
    return model, load_clip(), load_vae(dtype)


def load_demo_model() -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the bundled model. Images are 128 x 128, latents `[4, 16, 16]`, h-space `[192, 4, 4]`."""
    return load_unet(), load_clip(), load_vae()
