"""Where h-space is in a given MODEL: the input of the U-Net's decoder, after ControlNet's middle residual."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import comfy.model_sampling
import torch

from .comfy_compat import is_unet, original_weight, unet_of

# By width of the text embedding, channel multipliers, transformer depths of the encoder and of the middle block. A
# distilled U-Net with other blocks (SSD-1B, KOALA ...) is a family of its own though it is as wide as its teacher: its
# bottleneck comes after other layers, or there is no middle block at all.
_FAMILIES = {
    (768, (1, 2, 4, 4), (1, 1, 1, 1, 1, 1, 0, 0), 1): "SD1",
    (1024, (1, 2, 4, 4), (1, 1, 1, 1, 1, 1, 0, 0), 1): "SD2",
    (1280, (1, 2, 4, 4), (0, 0, 4, 4, 4, 4, 0, 0), 4): "SDXL-refiner",
    (2048, (1, 2, 4), (0, 0, 2, 2, 10, 10), 10): "SDXL",
    (2048, (1, 2, 4), (0, 0, 2, 2, 4, 4), -1): "SSD-1B",
    (2048, (1, 2, 4), (0, 0, 1, 1, 2, 2), -1): "Segmind-Vega",
    (2048, (1, 2, 4), (0, 2, 5), -2): "KOALA-700M",
    (2048, (1, 2, 4), (0, 2, 6), 6): "KOALA-1B",
    (768, (1, 2, 4), (0, 1, 1), -2): "SDXS",
    (1024, (1, 2, 4), (1, 1, 1), -2): "SDXS-0.9",
}
_PREDICTIONS = (  # derived classes before those that they derive from
    (comfy.model_sampling.IMG_TO_IMG, "img_to_img"),
    (comfy.model_sampling.X0, "x0"),
    (comfy.model_sampling.EDM, "edm"),
    (comfy.model_sampling.V_PREDICTION, "v_prediction"),
    (comfy.model_sampling.EPS, "epsilon"),
    (comfy.model_sampling.CONST, "flow"),
)
_LAST_CONVOLUTION = "diffusion_model.out.2.weight"


@dataclass(frozen=True)
class HSpaceSite:
    """The bottleneck of one U-Net.

    Attributes:
        family: "SD1", "SD2", "SDXL" and so on; vectors of one family fit all its fine-tunes. Architectures without a
            name here go by the class of ComfyUI's model configuration, e.g. "SVD_img2vid".
        channels: C of h, e.g. 1280 for SD 1.x.
        downscale: latent pixels per h pixel along each side, e.g. 8 for SD 1.x and 4 for SDXL.
        prediction_type: "epsilon", "v_prediction" and so on, as the model is sampled: ModelSampling nodes count.
        fingerprint: 16 hex digits that tell one fine-tune from another.
    """

    family: str
    channels: int
    downscale: int
    prediction_type: str
    fingerprint: str

    @property
    def base_model(self) -> str:
        """`family:fingerprint`, as vector files store it."""
        return f"{self.family}:{self.fingerprint}"

    def map_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Height and width of h for a latent of that size; strided convolutions round up."""
        return -(-latent_height // self.downscale), -(-latent_width // self.downscale)


def find_site(model) -> HSpaceSite:
    """The h-space of a ModelPatcher.

    Raises:
        ValueError: the model is not a U-Net of the Stable Diffusion kind, e.g. Flux or SD 3, which have no bottleneck.
    """
    unet = unet_of(model)
    if not is_unet(unet):
        raise ValueError(
            f"model: {type(model.model).__name__} ({type(unet).__name__}) has no U-Net bottleneck, so there is no "
            "h-space to steer. Supported are U-Net models: SD 1.x, SD 2.x, SDXL, SSD-1B, Segmind Vega, KOALA and SVD, and "
            "fine-tunes of them."
        )
    return HSpaceSite(
        family=_family(model),
        channels=unet.model_channels * unet.channel_mult[-1],
        downscale=2 ** (len(unet.channel_mult) - 1),
        prediction_type=_prediction_type(model),
        fingerprint=_fingerprint(model, unet),
    )


def _family(model) -> str:
    config = model.model.model_config
    unet = config.unet_config
    structure = (
        unet.get("context_dim"),
        tuple(unet.get("channel_mult", ())),
        tuple(unet.get("transformer_depth", ())),
        unet.get("transformer_depth_middle"),
    )
    if unet.get("use_temporal_attention") or structure not in _FAMILIES:
        return type(config).__name__
    return _FAMILIES[structure]


def _prediction_type(model) -> str:
    sampling = model.get_model_object("model_sampling")
    return next(
        (name for kind, name in _PREDICTIONS if isinstance(sampling, kind)), model.model.model_type.name.lower()
    )


def _fingerprint(model, unet: torch.nn.Module) -> str:
    """Hash of the last convolution's weights: small, and changed by any fine-tuning of the whole model."""
    weight = original_weight(model, _LAST_CONVOLUTION, unet.out[2].weight).detach().float().cpu().contiguous()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16]
