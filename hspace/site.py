"""Where h-space is in a given MODEL: the input of the U-Net's decoder, after ControlNet's middle residual."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

_FAMILY_BY_CONTEXT = {768: "SD1", 1024: "SD2", 1280: "SDXL-refiner", 2048: "SDXL"}


@dataclass(frozen=True)
class HSpaceSite:
    """The bottleneck of one U-Net.

    Attributes:
        family: "SD1", "SD2", "SDXL" and so on; vectors of one family fit all its fine-tunes.
        channels: C of h, e.g. 1280 for SD 1.x.
        downscale: latent pixels per h pixel along each side, e.g. 8 for SD 1.x and 4 for SDXL.
        prediction_type: "epsilon", "v_prediction" and so on.
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
    unet = model.get_model_object("diffusion_model")
    unet = getattr(unet, "_orig_mod", unet)  # torch.compile keeps the module there
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"model: {type(model.model).__name__} ({type(unet).__name__}) has no U-Net bottleneck, so there is no "
            "h-space to steer. Use an SD 1.x, SD 2.x or SDXL model, or a fine-tune of one."
        )
    return HSpaceSite(
        family=_family(model),
        channels=unet.model_channels * unet.channel_mult[-1],
        downscale=2 ** (len(unet.channel_mult) - 1),
        prediction_type=model.model.model_type.name.lower().replace("eps", "epsilon"),
        fingerprint=_fingerprint(unet),
    )


def _family(model) -> str:
    config = model.model.model_config
    width, context = config.unet_config.get("model_channels"), config.unet_config.get("context_dim")
    if width == 320 and context in _FAMILY_BY_CONTEXT:
        return _FAMILY_BY_CONTEXT[context]
    if width == 384 and context == 1280:
        return "SDXL-refiner"
    return type(config).__name__


def _fingerprint(unet: UNetModel) -> str:
    """Hash of the last convolution's weights: small, and changed by any fine-tuning of the whole model."""
    weight = unet.out[2].weight.detach().float().cpu().contiguous()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16]
