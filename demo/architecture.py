"""The emoji demo model out of ComfyUI's own classes: an SD 1.x U-Net at small width and a small CLIP text encoder.

The autoencoder needs no code here: it has TAESD's shape, which `comfy.sd.VAE` detects from the state dict.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import safetensors

TOKENIZER = Path(__file__).parent / "tokenizer"
WEIGHTS = Path(__file__).parent / "weights"
UNET_WEIGHTS = WEIGHTS / "unet.safetensors"
TEXT_WEIGHTS = WEIGHTS / "text_encoder.safetensors"
VAE_WEIGHTS = WEIGHTS / "vae.safetensors"
MAX_LENGTH = 24
START_TOKEN, END_TOKEN = 0, 1
VOCABULARY_SIZE = 1024

TEXT_CONFIG = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 512,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": MAX_LENGTH,
    "eos_token_id": END_TOKEN,
}

UNET_CONFIG = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": (1, 2, 3),
    "num_res_blocks": [1, 1, 1],
    # Text attention at every level but the outermost, in encoder, middle and decoder, as SDXL has it.
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "context_dim": TEXT_CONFIG["hidden_size"],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}


class EmojiTokenizer(comfy.sd1_clip.SDTokenizer):
    """CLIP's byte-pair tokenizer with a vocabulary of the captions' words; other words fall into letters."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(
            tokenizer_path=str(TOKENIZER),
            max_length=MAX_LENGTH,
            embedding_directory=embedding_directory,
            embedding_size=TEXT_CONFIG["hidden_size"],
            embedding_key="clip_emoji",
            tokenizer_data=tokenizer_data,
        )


class EmojiTextTransformer(comfy.clip_model.CLIPTextModel):
    """ComfyUI's CLIP text transformer with the small vocabulary, which its config has no entry for."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        embedding = operations.Embedding(VOCABULARY_SIZE, config_dict["hidden_size"], dtype=dtype, device=device)
        self.set_input_embeddings(embedding)


class EmojiClip(comfy.sd1_clip.SDClipModel):
    """The text encoder as `SD1ClipModel` holds it."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=MAX_LENGTH,
            textmodel_json_config=dict(TEXT_CONFIG),
            model_class=EmojiTextTransformer,
            special_tokens={"start": START_TOKEN, "end": END_TOKEN, "pad": END_TOKEN},
            return_projected_pooled=False,
            model_options=model_options,
        )


class EmojiClipModel(comfy.sd1_clip.SD1ClipModel):
    """The text encoder that `comfy.sd.CLIP` holds."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device, dtype=dtype, model_options=model_options, name="clip_emoji", clip_model=EmojiClip
        )


class EmojiSD1Tokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The tokenizer that `comfy.sd.CLIP` holds."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, name="clip_emoji", tokenizer=EmojiTokenizer)


class EmojiLatent(comfy.latent_formats.SD15):
    """SD 1.x latents, with preview colours of the demo autoencoder, which its weights file carries."""

    def __init__(self):
        super().__init__()
        self.taesd_decoder_name = None
        if VAE_WEIGHTS.is_file():
            with safetensors.safe_open(VAE_WEIGHTS, "pt") as file:
                *factors, bias = json.loads((file.metadata() or {}).get("latent_rgb", "null")) or [None]
            if factors:
                self.latent_rgb_factors, self.latent_rgb_factors_bias = factors, bias


class EmojiModel(comfy.supported_models.SD15):
    """Model configuration: epsilon-prediction and SD's scaled-linear schedule, both inherited from SD 1.5."""

    unet_config = UNET_CONFIG
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = EmojiLatent
    native_size = 128
    """Of its images, in pixels."""

    def clip_target(self, state_dict={}):
        return comfy.supported_models_base.ClipTarget(EmojiSD1Tokenizer, EmojiClipModel)
