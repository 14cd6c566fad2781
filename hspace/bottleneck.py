"""The bottleneck of a given MODEL, where h-space is: the input of the U-Net's decoder, after ControlNet's residual."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import comfy.model_sampling

from .comfy_compat import UnetStructure, last_convolution, model_type_name, unet_structure
from .concepts import Concept

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
_NATIVE_SIZES = {
    "SD1": 512,
    "SD2": 512,  # 768 where it predicts v
    "SDXL": 1024,
    "SDXL-refiner": 1024,
    "SSD-1B": 1024,
    "Segmind-Vega": 1024,
    "KOALA-700M": 1024,
    "KOALA-1B": 1024,
    "SDXS": 512,
    "SDXS-0.9": 512,
}
_PREDICTIONS = (  # derived classes before those that they derive from
    (comfy.model_sampling.IMG_TO_IMG, "img_to_img"),
    (comfy.model_sampling.X0, "x0"),
    (comfy.model_sampling.EDM, "edm"),
    (comfy.model_sampling.V_PREDICTION, "v_prediction"),
    (comfy.model_sampling.EPS, "epsilon"),
    (comfy.model_sampling.CONST, "flow"),
)


@dataclass(frozen=True)
class Bottleneck:
    """The bottleneck of one U-Net.

    Attributes:
        family: "SD1", "SD2", "SDXL" and so on; vectors of one family fit all its fine-tunes. Architectures without a
            name here go by the class of ComfyUI's model configuration, e.g. "SVD_img2vid".
        decoder: channels of h and latent pixels per h pixel along each side, at each site: the entrance of the decoder
            (site 0, h-space) and those of its further blocks; (1280, 8) first for SD 1.x, (1280, 4) for SDXL.
        prediction_type: "epsilon", "v_prediction" and so on, as the model is sampled: ModelSampling nodes count.
        native_size: of the images that the family was trained on, pixels along each side; 0 where it is not known.
    """

    family: str
    decoder: tuple[tuple[int, int], ...]
    prediction_type: str
    native_size: int = 0

    @property
    def channels(self) -> int:
        """C of h in the bottleneck."""
        return self.decoder[0][0]

    @property
    def trained_with_zeros(self) -> bool:
        """True where zeros are the empty prompt that the model knows: SDXL and those distilled from it. SD 1.x and 2.x
        were trained with the encoded empty prompt.
        """
        return self.family.startswith(("SDXL", "SSD-1B", "Segmind-Vega", "KOALA"))

    @property
    def sites(self) -> range:
        """The numbers of the sites."""
        return range(len(self.decoder))

    def map_size(self, latent_height: int, latent_width: int, site: int = 0) -> tuple[int, int]:
        """Height and width of h at a site for a latent of that size; strided convolutions round up."""
        downscale = self.decoder[site][1]
        return -(-latent_height // downscale), -(-latent_width // downscale)

    def check_fits(self, concept: Concept) -> None:
        """Raise ValueError where a concept was found on another model family or width."""
        for vector in concept.vectors():
            if vector.family != self.family or vector.tensor.shape[0] != self.channels:
                raise ValueError(
                    f"concept: '{vector.name}' was found on {vector.family} with {vector.tensor.shape[0]} "
                    f"channels, but the model is {self.family} with {self.channels}. Use a vector of the same base "
                    f"model, "
                    "or discover it again on this one."
                )
            for site, tensor in vector.decoder.items():
                width = self.decoder[site][0] if site in self.sites else None
                if width != len(tensor):
                    found = "has none" if width is None else f"has {width} channels there"
                    raise ValueError(
                        f"concept: '{vector.name}' acts on decoder block {site} with {len(tensor)} channels, but "
                        f"the model "
                        f"{found}. Use a vector of the same base model, or discover it again on this one."
                    )


def find_bottleneck(model) -> Bottleneck:
    """The bottleneck of a ModelPatcher.

    Raises:
        ValueError: the model is not a U-Net of the Stable Diffusion kind, e.g. Flux or SD 3, which have no bottleneck.
    """
    structure = unet_structure(model)
    family, prediction_type = family_of(structure), _prediction_type(model)
    size = _NATIVE_SIZES.get(family, structure.native_size)
    if family == "SD2" and prediction_type == "v_prediction":
        size = 768
    return Bottleneck(family, structure.decoder, prediction_type, size)


def base_model(model) -> str:
    """`family:fingerprint` of a ModelPatcher's U-Net, as vector files store it.

    The fingerprint, 16 hex digits, tells one fine-tune from another: a hash of the last convolution's weights, which
    are few, and which any fine-tuning of the whole model changes. It is left out where they cannot be read.
    """
    family = family_of(unet_structure(model))
    try:
        weight = last_convolution(model).detach().float().cpu().contiguous().numpy()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # of a kind of its own, or none at all
        return family
    return f"{family}:{hashlib.sha256(weight.tobytes()).hexdigest()[:16]}"


def family_of(structure: UnetStructure) -> str:
    """The family of a U-Net, as in `Bottleneck.family`."""
    key = (
        structure.context_dim,
        structure.channel_mult,
        structure.transformer_depth,
        structure.transformer_depth_middle,
    )
    return structure.config_name if structure.temporal else _FAMILIES.get(key, structure.config_name)


def _prediction_type(model) -> str:
    sampling = model.get_model_object("model_sampling")
    return next((name for kind, name in _PREDICTIONS if isinstance(sampling, kind)), model_type_name(model))
