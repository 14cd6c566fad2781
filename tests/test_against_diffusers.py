"""A steered U-Net agrees with diffusers' own U-Net holding the same weights, steered by a plain forward hook."""

import comfy.utils
import pytest
import torch
from diffusers import UNet2DConditionModel

from helpers import CONTEXT, TINY_UNET, conditioning, random_vector, responsive_vector, sample, tiny_model
from hspace.bottleneck import find_bottleneck
from hspace.concepts import Vector
from hspace.steering import apply_steering


def twin(model) -> UNet2DConditionModel:
    """diffusers' U-Net with the weights of a tiny ComfyUI model."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CONTEXT,
        attention_head_dim=4,
        norm_num_groups=32,
    )
    theirs = unet.state_dict()
    ours = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    mapping = comfy.utils.unet_to_diffusers({**TINY_UNET, "num_res_blocks": [1, 1]})
    for their_key, our_key in mapping.items():
        if their_key in theirs:
            theirs[their_key] = ours[our_key]
    unet.load_state_dict(theirs)
    return unet.eval()


def at_every_site(unet, vector, strength):
    """Hooks before the residual layer of each decoder block, whose input is h and the skip connection side by side."""
    layers = [layer for block in unet.up_blocks for layer in block.resnets]
    for site, tensor in vector.tensors.items():
        response = vector.responses.get(site)

        def add(module, inputs, tensor=tensor, response=response):
            joined, *rest = inputs
            h, skip = joined[:, : len(tensor)], joined[:, len(tensor) :]
            added = tensor if response is None else tensor + torch.einsum("cr,rd,bdhw->bchw", *response, h)
            return torch.cat([h + strength * added, skip], dim=1), *rest

        layers[site].register_forward_pre_hook(add)


def on_mid_block(unet, vector, strength):
    """A hook on the middle block."""
    unet.mid_block.register_forward_hook(lambda module, inputs, output: output + strength * vector.tensor)


@pytest.mark.parametrize("strength", [0.0, 1.0, -3.5])
@pytest.mark.parametrize(
    ("register", "responses"), [(on_mid_block, False), (at_every_site, False), (at_every_site, True)]
)
def test_steered_prediction_equals_plain_hooks(strength, register, responses):
    model, v = tiny_model(), random_vector()
    if responses:
        v = responsive_vector(model).scaled(0.1)
    elif register is at_every_site:
        widths = [channels for channels, _ in find_bottleneck(model).decoder]
        decoder = {site: torch.randn(width, 1, 1) for site, width in enumerate(widths) if site}
        v = Vector(v.tensor, "test", v.family, decoder=decoder)
    unet = twin(model)
    register(unet, v, strength)
    positive = conditioning(1)
    seen = {}

    def record(apply_model, options):
        denoised = apply_model(options["input"], options["timestep"], **options["c"])
        seen.update(x=options["input"].clone(), sigma=options["timestep"].clone(), denoised=denoised.clone())
        return denoised

    steered = apply_steering(model, v, strength)
    steered.set_model_unet_function_wrapper(record)
    sample(steered, positive=positive, cfg=1.0, steps=3)
    sampling = model.get_model_object("model_sampling")
    with torch.no_grad():
        x = sampling.calculate_input(seen["sigma"], seen["x"])
        predicted = unet(x, sampling.timestep(seen["sigma"]).float(), positive[0][0]).sample
    ours = (seen["x"] - seen["denoised"]) / seen["sigma"].view(-1, 1, 1, 1)
    assert predicted.abs().max() > 0.01
    torch.testing.assert_close(ours, predicted, rtol=0, atol=1e-4)
