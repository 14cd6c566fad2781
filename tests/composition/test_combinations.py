"""Steering beside every stock node that changes a model or a conditioning, in either order.

The reference is `steered_by_hand`, which shares no code with the pack. A new combination is one line in a table.
"""

from functools import cache
from itertools import chain

import comfy.controlnet
import comfy.sd
import comfy.utils
import comfy_extras.nodes_apg as apg
import comfy_extras.nodes_attention_multiply as multiply
import comfy_extras.nodes_cfg as cfg_nodes
import comfy_extras.nodes_context_windows as windows
import comfy_extras.nodes_differential_diffusion as differential
import comfy_extras.nodes_easycache as caches
import comfy_extras.nodes_eps as eps_nodes
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_fresca as fresca
import comfy_extras.nodes_hooks as hook_nodes
import comfy_extras.nodes_hypernetwork as hypernetwork
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_mahiro as mahiro
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_model_downscale as downscale
import comfy_extras.nodes_model_merging as merging
import comfy_extras.nodes_pag as pag
import comfy_extras.nodes_sag as sag
import comfy_extras.nodes_slg as slg
import comfy_extras.nodes_tcfg as tcfg
import comfy_extras.nodes_tomesd as tomesd
import folder_paths
import pytest
import torch
from comfy.ldm.modules import attention

import nodes
from composition.builders import (
    ARCHITECTURES,
    WINDOWS_OF_IMAGES,
    build,
    conditioning,
    sample,
    steered_by_hand,
    vector_for,
)
from helpers import run_stock_node
from hspace.steering import apply_steering

STRENGTH = 3.0


@pytest.fixture(scope="module")
def model():
    return build("small")


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory, model):
    """A LoRA and a hypernetwork where the stock loaders look for them."""
    folder, generator = tmp_path_factory.mktemp("models"), torch.Generator().manual_seed(5)
    lora = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if name.endswith(("to_q.weight", "to_v.weight", "middle_block.2.out_layers.3.weight", "out.2.weight")):
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            lora[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], 2, generator=generator)
            lora[f"{key}.lora_down.weight"] = 0.1 * torch.randn(2, weight[0].numel(), generator=generator)
            if weight.ndim == 4:
                lora[f"{key}.lora_up.weight"] = lora[f"{key}.lora_up.weight"][..., None, None]
                lora[f"{key}.lora_down.weight"] = lora[f"{key}.lora_down.weight"].reshape(2, *weight.shape[1:])
    comfy.utils.save_torch_file(lora, str(folder / "test.safetensors"))
    layer = {"linear.0.weight": 0.1 * torch.randn(768, 768, generator=generator), "linear.0.bias": torch.zeros(768)}
    torch.save({768: [layer, layer]}, folder / "test.pt")
    for kind in ("loras", "hypernetworks"):
        folder_paths.add_model_folder_path(kind, str(folder))
        folder_paths.filename_list_cache.pop(kind, None)


def with_attention(model, function):
    """What --use-split-cross-attention and its like do, for one model."""
    patched = model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = lambda _, *args, **kwargs: function(
        *args, **kwargs
    )
    return patched


def image_prompt(model):
    """As IPAdapter does it: cross-attention to further tokens, added to the prompt's."""
    generator = torch.Generator().manual_seed(3)
    to_k, to_v = (0.1 * torch.randn(768, 128, generator=generator) for _ in range(2))
    tokens = torch.randn(1, 4, 768, generator=generator)

    def attend(q, k, v, extra_options):
        count = q.shape[0]
        further = ((tokens @ weight)[..., : q.shape[-1]].expand(count, -1, -1) for weight in (to_k, to_v))
        heads = extra_options["n_heads"]
        return attention.optimized_attention(q, k, v, heads) + attention.optimized_attention(q, *further, heads)

    patched = model.clone()
    patched.set_model_attn2_replace(attend, "middle", 0)
    patched.set_model_attn2_patch(lambda n, k, v, extra_options: (n, 1.1 * k, v))
    return patched


@cache
def other_model(seed=9):
    return build("small", seed=seed)


SMALL, LONG = {"steps": 3}, {"steps": 8}
# name: (MODEL to MODEL, options of sampling)
MODEL_NODES = {
    "nothing": (lambda m: m, SMALL),
    "LoRA": (lambda m: nodes.LoraLoaderModelOnly().load_lora_model_only(m, "test.safetensors", 0.8)[0], SMALL),
    "hypernetwork": (lambda m: hypernetwork.HypernetworkLoader.execute(m, "test.pt", 1.0)[0], SMALL),
    "IPAdapter-style attention": (image_prompt, SMALL),
    "split attention": (lambda m: with_attention(m, attention.attention_split), {**SMALL, "inert": True}),
    "PyTorch attention": (lambda m: with_attention(m, attention.attention_pytorch), {**SMALL, "inert": True}),
    "FreeU": (lambda m: freelunch.FreeU().patch(m, 1.3, 1.4, 0.9, 0.2)[0], SMALL),
    "FreeU V2": (lambda m: freelunch.FreeU_V2().patch(m, 1.3, 1.4, 0.9, 0.2)[0], SMALL),
    "HyperTile": (lambda m: hypertile.HyperTile.execute(m, 32, 2, 1, False)[0], SMALL),
    "Deep Shrink": (
        lambda m: downscale.PatchModelAddDownscale.execute(m, 3, 2.0, 0.0, 0.9, True, "bicubic", "bicubic")[0],
        SMALL,
    ),
    "Deep Shrink before skip": (
        lambda m: downscale.PatchModelAddDownscale.execute(m, 4, 2.0, 0.0, 0.5, False, "area", "bilinear")[0],
        SMALL,
    ),
    "Deep Shrink last block": (
        lambda m: downscale.PatchModelAddDownscale.execute(m, 5, 2.0, 0.0, 0.9, True, "bicubic", "bicubic")[0],
        SMALL,
    ),
    "PAG": (lambda m: pag.PerturbedAttentionGuidance.execute(m, 3.0)[0], SMALL),
    "SAG": (lambda m: sag.SelfAttentionGuidance.execute(m, 0.5, 2.0)[0], SMALL),
    "SAG and PAG": (
        lambda m: pag.PerturbedAttentionGuidance.execute(sag.SelfAttentionGuidance.execute(m, 0.5, 2.0)[0], 3.0)[0],
        SMALL,
    ),
    "SLG": (lambda m: slg.SkipLayerGuidanceDiT.execute(m, 3.0, 0.0, 1.0, "1", "1")[0], {**SMALL, "inert": True}),
    "RescaleCFG": (lambda m: advanced.RescaleCFG().patch(m, 0.7)[0], SMALL),
    "APG": (lambda m: apg.APG.execute(m, 1.5, 5.0, 0.1)[0], SMALL),
    "TCFG": (lambda m: tcfg.TCFG.execute(m)[0], SMALL),
    "Mahiro": (lambda m: mahiro.Mahiro.execute(m)[0], SMALL),
    "CFG-Zero*": (lambda m: cfg_nodes.CFGZeroStar.execute(m)[0], SMALL),
    "CFGNorm": (lambda m: cfg_nodes.CFGNorm.execute(m, 0.8)[0], SMALL),
    "FreSca": (lambda m: fresca.FreSca.execute(m, 1.0, 1.25, 2)[0], SMALL),
    "Epsilon Scaling": (lambda m: eps_nodes.EpsilonScaling.execute(m, 1.1)[0], SMALL),
    "ToMe": (lambda m: tomesd.TomePatchModel.execute(m, 0.3)[0], SMALL),
    "attention multiply": (lambda m: multiply.UNetSelfAttentionMultiply.execute(m, 1.2, 0.9, 1.0, 1.0)[0], SMALL),
    "Differential Diffusion": (
        lambda m: differential.DifferentialDiffusion.execute(m)[0],
        {**SMALL, "latent": torch.ones(1, 4, 16, 16), "noise_mask": torch.linspace(0, 1, 16).expand(1, 16, 16)},
    ),
    "EasyCache": (lambda m: caches.EasyCacheNode.execute(m, 2.0, 0.0, 0.95, False)[0], LONG),
    "LazyCache": (lambda m: caches.LazyCacheNode.execute(m, 2.0, 0.0, 0.95, False)[0], LONG),
    "merge": (lambda m: merging.ModelMergeSimple().merge(m, other_model(), 0.6)[0], SMALL),
    "merge by blocks": (
        lambda m: merging.ModelMergeBlocks().merge(m, other_model(), input=0.2, middle=0.5, out=0.9)[0],
        SMALL,
    ),
    "add difference": (
        lambda m: merging.ModelAdd().merge(m, merging.ModelSubtract().merge(other_model(), other_model(4), 0.1)[0])[0],
        SMALL,
    ),
    "ModelSamplingDiscrete": (lambda m: advanced.ModelSamplingDiscrete().patch(m, "v_prediction", True)[0], SMALL),
    "ModelSamplingContinuousEDM": (
        lambda m: advanced.ModelSamplingContinuousEDM().patch(m, "edm", 80.0, 0.002)[0],
        SMALL,
    ),
    "context windows": (
        lambda m: run_stock_node(windows.ContextWindowsManualNode, model=m, **WINDOWS_OF_IMAGES)[0],
        {**SMALL, "batch": 4, "inert": True},
    ),
}


@pytest.mark.parametrize("name", MODEL_NODES)
def test_model_nodes_before_and_after(model, name):
    node, options = MODEL_NODES[name]
    options = dict(options)
    inert = options.pop("inert", name == "nothing")
    v = vector_for(model)
    with steered_by_hand(node(model), v, STRENGTH) as reference:
        wanted = sample(reference, **options)
    before = sample(node(apply_steering(model, v, STRENGTH)), **options)
    after = sample(apply_steering(node(model), v, STRENGTH), **options)
    assert torch.equal(before, after)
    torch.testing.assert_close(after, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(after, sample(node(model), **options), rtol=1e-2, atol=1e-2)  # steering acts
    assert inert or not torch.allclose(
        after, sample(apply_steering(model, v, STRENGTH), **options), rtol=1e-2, atol=1e-2
    )


def set_area(cond, **place):
    return nodes.ConditioningSetArea().append(cond, strength=1.0, **place)[0]


def left(cond):
    return set_area(cond, width=64, height=128, x=0, y=0)


def right(cond):
    return set_area(cond, width=64, height=128, x=64, y=0)


def percentage(cond):
    return nodes.ConditioningSetAreaPercentage().append(cond, 0.5, 0.75, 0.25, 0.25, 1.0)[0]


def masked(cond, bounds="default"):
    mask = torch.zeros(1, 16, 16)
    mask[:, 2:12, 4:] = 1
    return nodes.ConditioningSetMask().append(cond, mask, bounds, 0.9)[0]


def combine(*conds):
    return [*chain.from_iterable(conds)]


def in_range(cond, start, end):
    return nodes.ConditioningSetTimestepRange().set_range(cond, start, end)[0]


def hooked(cond):
    (hooks,) = hook_nodes.CreateHookLoraModelOnly().create_hook_model_only("test.safetensors", 0.8)
    return hook_nodes.ConditioningSetProperties().set_properties(cond, 1.0, "default", hooks=hooks)[0]


# name: from prompts a, b, c, d to those of the positive and of the negative input
CONDITIONINGS = {
    "plain": lambda a, b, c, d: (a, b),
    "area beside the whole": lambda a, b, c, d: (combine(left(a), c), b),
    "two areas": lambda a, b, c, d: (combine(left(a), right(c), c), b),
    "area of the negative": lambda a, b, c, d: (a, combine(left(b), d)),
    "areas on both sides": lambda a, b, c, d: (combine(left(a), c), combine(right(b), d)),
    "area in percent": lambda a, b, c, d: (combine(percentage(a), c), b),
    "mask": lambda a, b, c, d: (combine(masked(a), c), b),
    "mask bounds": lambda a, b, c, d: (combine(masked(a, "mask bounds"), c), b),
    "combine": lambda a, b, c, d: (
        nodes.ConditioningCombine().combine(a, c)[0],
        nodes.ConditioningCombine().combine(b, d)[0],
    ),
    "concat": lambda a, b, c, d: (nodes.ConditioningConcat().concat(a, c)[0], b),
    "average": lambda a, b, c, d: (nodes.ConditioningAverage().addWeighted(a, c, 0.3)[0], b),
    "timestep ranges": lambda a, b, c, d: (combine(in_range(a, 0.0, 0.4), in_range(c, 0.4, 1.0)), b),
    "zeroed negative": lambda a, b, c, d: (a, nodes.ConditioningZeroOut().zero_out(a)[0]),
    "LoRA of one prompt": lambda a, b, c, d: (combine(hooked(a), c), b),
    "LoRA of both halves": lambda a, b, c, d: (hooked(a), hooked(b)),
    "the same on both sides": lambda a, b, c, d: (a, a),
}


@pytest.mark.parametrize("tokens", [(7, 7), (7, 40)], ids=["one length", "two lengths"])
@pytest.mark.parametrize("name", CONDITIONINGS)
def test_conditionings(model, name, tokens):
    prompts = [conditioning(model, seed, tokens[seed % 2]) for seed in range(4)]
    positive, negative = CONDITIONINGS[name](*prompts)
    options = {"positive": positive, "negative": negative, "steps": 3, "batch": 2}
    v = vector_for(model)
    with steered_by_hand(model, v, STRENGTH, [] if name == "the same on both sides" else positive) as reference:
        wanted = sample(reference, **options)
    torch.testing.assert_close(sample(apply_steering(model, v, STRENGTH), **options), wanted, rtol=1e-3, atol=1e-3)


def control_net():
    """A ControlNet of random weights at the model's width, loaded from a state dict as its node loads it."""
    import comfy.cldm.cldm

    from demo.training.common import initialise

    architecture, width = ARCHITECTURES["small"]
    with torch.inference_mode():
        torch.manual_seed(2)
        net = comfy.cldm.cldm.ControlNet(
            image_size=32,
            in_channels=4,
            model_channels=width,
            hint_channels=3,
            legacy=False,
            use_spatial_transformer=True,
            **architecture,
        )
        initialise(net)
        return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))


def t2i_adapter():
    import comfy.t2i_adapter.adapter

    torch.manual_seed(2)
    adapter = comfy.t2i_adapter.adapter.Adapter(
        cin=192, channels=[32, 64, 128, 128], nums_rb=2, ksize=1, sk=True, use_conv=False
    )
    return comfy.controlnet.load_t2i_adapter(adapter.state_dict())


# name: (how to make it, the model that it fits)
CONTROLS = {"ControlNet": (control_net, "small"), "T2I-Adapter": (t2i_adapter, "SD 1.5")}


@pytest.mark.parametrize("both", [True, False], ids=["both halves", "positive only"])
@pytest.mark.parametrize("name", CONTROLS)
def test_control(name, both):
    """h is taken after the middle residual, and what is added does not depend on it."""
    make, architecture = CONTROLS[name]
    model = build(architecture)
    image = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = conditioning(model, 1), conditioning(model, 2)
    with torch.inference_mode():
        controlled = nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, make(), image, 0.7, 0.0, 0.8)
    options = {"positive": controlled[0], "negative": controlled[1] if both else negative, "steps": 3}
    v = vector_for(model)
    with steered_by_hand(model, v, STRENGTH) as reference:
        wanted = sample(reference, **options)
    steered = apply_steering(model, v, STRENGTH)
    torch.testing.assert_close(sample(steered, **options), wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(sample(steered, steps=3), wanted, rtol=1e-2, atol=1e-2)


def test_gligen(model):
    """Boxes arrive as patches of one conditioning, which ComfyUI merges with those of the model."""
    from comfy.gligen import GatedSelfAttentionDense, PositionNet, load_gligen
    from comfy.model_patcher import ModelPatcher

    from demo.training.common import initialise

    torch.manual_seed(6)
    position = PositionNet(768, 768)
    initialise(position)
    weights = {f"position_net.{key}": value for key, value in position.state_dict().items()}
    for name, module in model.model.diffusion_model.named_modules():
        if name.endswith("transformer_blocks.0"):
            width = module.attn1.to_q.weight.shape[1]
            layer = GatedSelfAttentionDense(width, 768, 8, width // 8)
            initialise(layer)
            for gate in (layer.alpha_attn, layer.alpha_dense):
                gate.data.fill_(1.0)
            weights |= {f"{name}.fuser.{key}": value for key, value in layer.state_dict().items()}
    with torch.inference_mode():
        gligen = ModelPatcher(load_gligen(weights), torch.device("cpu"), torch.device("cpu"))
    box = ("position", gligen, [(torch.randn(1, 768), 8, 8, 2, 4)])
    positive = conditioning(model, 1, gligen=box)
    v = vector_for(model)
    with steered_by_hand(model, v, STRENGTH) as reference:
        wanted = sample(reference, positive=positive)
    steered = apply_steering(model, v, STRENGTH)
    torch.testing.assert_close(sample(steered, positive=positive), wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(sample(steered), wanted, rtol=1e-2, atol=1e-2)


def test_clip_skip(demo_model):
    """A prompt from an earlier layer of the text encoder, on the model whose text encoder is at hand."""
    unet, clip, _ = demo_model
    v, drawn = vector_for(unet), []
    for layer in (-1, -2):
        with torch.inference_mode():
            skipped = nodes.CLIPSetLastLayer().set_last_layer(clip, layer)[0]
            positive, negative = (
                nodes.CLIPTextEncode().encode(skipped, text)[0] for text in ("a woman judge", "a man")
            )
        drawn.append(sample(apply_steering(unet, v, STRENGTH), positive, negative))
        with steered_by_hand(unet, v, STRENGTH, positive) as by_hand:
            torch.testing.assert_close(drawn[-1], sample(by_hand, positive, negative), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(*drawn, atol=1e-2)
