"""A second architecture: SDXL's shape at small width, trained here and not shipped, with the defaults of discovery.

Three levels with text attention at the inner two, several transformer layers each, pooled text and size embedding,
v-prediction, images of 256 x 256 and an h of 8 x 8; text encoder, autoencoder and classifier are the demo model's.
Trains for `--minutes` at most, writes the weights to `--folder`, and second_architecture.md and .json. Meant for a GPU;
`--small` with some `--half-size-minutes` is for a CPU. Needs the renders of the demo model's training.
"""

from __future__ import annotations

import argparse
import time
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from demo.architecture import TEXT_CONFIG, UNET_CONFIG, EmojiLatent
from demo.generate import encode
from demo.loader import load_clip, load_vae
from demo.training.common import autocast, cosine, initialise, random_people, seed_step
from demo.training.latents import LatentCache
from demo.training.train_unet import MIN_SNR_GAMMA, moving_average, signal_and_noise, zero_residual_outputs
from hspace import Concept, apply_steering
from hspace.discovery import PromptPairs

from .common import ROOT, Bench, Task, markdown_table, store, with_interval, write_report
from .discovery import CONCEPTS, MAIN, STRENGTHS, measure

SIDE = 256


def config(width: int, blocks: int, second: int, third: int) -> dict:
    """Of a U-Net with so many channels and residual blocks, and transformer layers at its second and third level."""
    return {
        **UNET_CONFIG,
        "image_size": SIDE // 8,
        "model_channels": width,
        "channel_mult": (1, 2, 4),
        "num_res_blocks": [blocks] * 3,
        "transformer_depth": [0] * blocks + [second] * blocks + [third] * blocks,
        "transformer_depth_middle": third,
        "transformer_depth_output": [0] * (blocks + 1) + [second] * (blocks + 1) + [third] * (blocks + 1),
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": TEXT_CONFIG["hidden_size"] + 6 * 256,  # pooled text and six numbers of size and crop
    }


CONFIGS = {"large": config(64, 2, 1, 3), "small": config(32, 1, 1, 2)}
LEARNING_RATE = 6e-4
DROPPED_SHARE = 0.1
"""Of the captions: zeros are the unconditional, as SDXL was trained."""


class SDXLSmall(comfy.supported_models.SDXL):
    """SDXL at small width, with v-prediction."""

    unet_config = CONFIGS["large"]
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": 32}
    latent_format = EmojiLatent
    native_size = SIDE

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--minutes", type=float, default=90, help="of training")
    parser.add_argument(
        "--half-size-minutes", type=float, default=0, help="of them at first on images of half the size"
    )
    parser.add_argument("--small", action="store_true", help="half the width, fewer layers")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=192)
    parser.add_argument("--images", type=int, default=128, help="images a strength")
    parser.add_argument("--concept", action="append", help=f"may be repeated; default: {', '.join(MAIN)}")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "second_architecture", help="of the weights")
    parser.add_argument("--renders", type=Path, default=ROOT / ".cache" / "demo", help="cache of the demo's training")


def run(options: argparse.Namespace) -> None:
    """Train where there are no weights yet, find vectors, and write the results."""
    weights = options.folder / "unet.safetensors"
    if not weights.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        size = "small" if options.small else "large"
        model = new_model(size)
        larger = LatentCache(options.renders, SIDE)
        smaller = LatentCache(options.renders) if options.half_size_minutes else larger
        seconds, smaller_seconds = 60 * options.minutes, 60 * options.half_size_minutes
        note = train(model, larger, smaller, smaller_seconds, options.steps, options.batch_size, seconds)
        state = {key: value.half().contiguous() for key, value in model.diffusion_model.state_dict().items()}
        save_file(state, weights, {"trained": note, "size": size})
        print(note, flush=True)
        del model
        comfy.model_management.soft_empty_cache()
    bench, results = SmallBench(weights), []
    for name in options.concept or MAIN:
        results = store("second_architecture", [cell(bench, name, options.images)], sort_key)
    write_report("second_architecture", report(results, weights))


def sort_key(result: dict) -> tuple:
    """The place of a result among the others."""
    return (MAIN.index(result["concept"]),)


def cell(bench: SmallBench, name: str, images: int) -> dict:
    """One concept: found with the defaults, and shown at each strength, beside no vector and the word."""
    task = CONCEPTS[name]
    discovery, seconds = bench.discover(task)
    rows = [measure(bench, task, None, 0.0, images)]
    rows += [measure(bench, task, discovery.vector, strength, images) for strength in STRENGTHS]
    word = measure(bench, task, None, 0.0, images, say_concept=True) if task.wording else None
    result = {
        "concept": name,
        "images": images,
        "evaluations": discovery.evaluations,
        "seconds": round(seconds, 1),
        "reach": discovery.vector.provenance.reach,
        "rows": rows,
        "word": word,
    }
    print(result, flush=True)
    return result


class SmallBench(Bench):
    """`Bench` around this model; images are judged at the classifier's 128 x 128."""

    def __init__(self, weights: Path):
        self.weights = weights

    @cached_property
    def parts(self):
        """MODEL, CLIP and VAE."""
        model = new_model(
            _metadata(self.weights)["size"], torch.float16 if torch.cuda.is_available() else torch.float32
        )
        model.diffusion_model.load_state_dict(load_file(self.weights))
        load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return (
            comfy.model_patcher.ModelPatcher(model, load_device=load, offload_device=offload),
            load_clip(),
            load_vae(),
        )

    @property
    def sampling_parts(self):
        """The same."""
        return self.parts

    def prompt_pairs(self, task: Task) -> PromptPairs:
        """As `Bench` has them, without an encoded empty prompt: zeros are what this model knows."""
        pairs = super().prompt_pairs(task)
        return PromptPairs(pairs.concept, pairs.base, pairs.avoid, None, pairs.texts)

    def discover(self, task: Task, *args, **settings):
        """As `Bench` does it, at this model's size."""
        return super().discover(task, *args, **{"width": SIDE, "height": SIDE, **settings})

    @torch.inference_mode()
    def sample(self, prompts, seeds, concept: Concept | None = None, strength: float = 1.0, *, cfg=4.0, steps=20):
        """IMAGE `[len(prompts), 128, 128, 3]`."""
        model, clip, vae = self.parts
        model = apply_steering(model, concept, strength) if concept is not None and strength else model
        images = []
        for start in range(0, len(prompts), 64):
            part = slice(start, start + 64)
            positive = encode(clip, prompts[part])
            negative = [[torch.zeros_like(positive[0][0]), {"pooled_output": torch.zeros_like(_pooled(positive))}]]
            noise = torch.cat(
                [
                    torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(s))
                    for s in seeds[part]
                ]
            )
            latent = comfy.sample.sample(
                model, noise, steps, cfg, "euler", "normal", positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=0,
            )  # fmt: skip
            large = torch.cat([vae.decode(chunk) for chunk in latent.split(8)]).movedim(-1, 1)
            images.append(F.interpolate(large, scale_factor=0.5, mode="area").movedim(1, -1))
        return torch.cat(images).clone()


def _pooled(conditioning: list) -> torch.Tensor:
    return conditioning[0][1]["pooled_output"]


def new_model(size: str, dtype: torch.dtype = torch.float32) -> comfy.model_base.SDXL:
    """The model as ComfyUI builds it, its weights not yet set."""
    built = SDXLSmall(CONFIGS[size])
    built.set_inference_dtype(dtype, None)
    return built.get_model({}).eval()


def _metadata(weights: Path) -> dict[str, str]:
    with safetensors.safe_open(weights, "pt") as file:
        return file.metadata()


class Prompts:
    """Context and pooled text of captions by the frozen text encoder, each computed once."""

    def __init__(self, device: torch.device):
        self.clip = load_clip()
        self.encoder = self.clip.cond_stage_model.clip_emoji.to(device)
        self.known: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 `[batch, tokens, channels]` and `[batch, channels]`; zeros where the caption is None."""
        new = [caption for caption in dict.fromkeys(captions) if caption is not None and caption not in self.known]
        if new:
            # Together: one after the other takes longer than the training.
            tokens = [[token for token, _ in self.clip.tokenize(caption)["clip_emoji"][0]] for caption in new]
            contexts, pooled = self.encoder(tokens)[:2]
            self.known |= dict(zip(new, zip(contexts.float(), pooled.float(), strict=True), strict=True))
        context, pooled = next(iter(self.known.values()))
        nothing = torch.zeros_like(context), torch.zeros_like(pooled)
        rows = [nothing if caption is None else self.known[caption] for caption in captions]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def train(
    model: comfy.model_base.SDXL,
    larger: LatentCache,
    smaller: LatentCache,
    smaller_seconds: float,
    steps: int,
    batch_size: int,
    seconds: float,
) -> str:
    """Train until there are so many steps or seconds, the learning rate on a cosine over whichever ends first.

    The latents are the smaller ones for the first `smaller_seconds`. The weights become their moving average. Returns
    what was done, in words.
    """
    device, began = comfy.model_management.get_torch_device(), time.perf_counter()
    step, smaller_steps, losses = 0, 0, []
    sizes = {data: size_embedding(model, 8 * data.latents.shape[-1]).to(device) for data in (larger, smaller)}
    unet = model.diffusion_model.to(device).train()
    initialise(unet)
    zero_residual_outputs(unet)
    average = AveragedModel(unet, multi_avg_fn=moving_average)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=device.type == "cuda")
    prompts, (signal, noise_scale) = Prompts(device), (table.to(device) for table in signal_and_noise())
    done = 0.0
    while step < steps and done < 1:
        data = smaller if time.perf_counter() - began < smaller_seconds else larger
        smaller_steps += data is not larger
        rng = seed_step(0, step)
        people, captions = random_people(rng, batch_size)
        context, pooled = prompts([None if rng.random() < DROPPED_SHARE else caption for caption in captions])
        x0 = data.batch(people, rng).to(device)
        if rng.random() < 0.5:
            x0 = x0.flip(-1)
        eps, t = torch.randn_like(x0), (torch.rand(batch_size, device=device).sqrt() * 1000).long()
        alpha, sigma = signal[t, None, None, None], noise_scale[t, None, None, None]
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * _rate(step, done)
        with autocast(device.type):
            y = torch.cat([pooled, sizes[data].expand(batch_size, -1)], 1)
            predicted = unet(alpha * x0 + sigma * eps, t, context=context, y=y)
        snr = (signal[t] / noise_scale[t]) ** 2
        weight = snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1)  # min-SNR weighting (Hang et al. 2023) of a v-prediction loss
        loss = ((predicted.float() - (alpha * eps - sigma * x0)).square().mean((1, 2, 3)) * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(unet)
        losses.append(loss.detach())
        step += 1
        done = max(step / steps, (time.perf_counter() - began) / seconds)
        if step % 200 == 0:
            spent = time.perf_counter() - began
            print(f"step {step}/{steps} loss {torch.stack(losses[-200:]).mean():.4f} {spent:.0f} s", flush=True)
    unet.load_state_dict(average.module.state_dict())
    first = f", the first {smaller_steps:,} of them on images of half the size" if smaller_steps else ""
    return (
        f"{step:,} steps of {batch_size} latents in {time.perf_counter() - began:.0f} s{first}, "
        f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters"
    )


def size_embedding(model: comfy.model_base.SDXL, side: int) -> torch.Tensor:
    """Embedding `[6 * 256]` of a square image's size, crop and target size, in pixels."""
    return torch.cat([model.embedder(torch.tensor([n])) for n in (side, side, 0, 0, side, side)]).flatten()


def _rate(step: int, done: float) -> float:
    return min((step + 1) / 200, cosine(round(1000 * done), 1000, warmup=0))


def report(results: list[dict], weights: Path) -> str:
    """The Markdown page."""
    trained, rows = _metadata(weights)["trained"], []
    for result in results:
        images, word = result["images"], result["word"]
        unsteered, *steered = result["rows"]
        entries = [f"{with_interval(row['concept'], images)} / {100 * row['profession']:.0f}" for row in steered]
        ceiling = f"{100 * word['concept']:.0f} / {100 * word['profession']:.0f}" if word else "–"
        rows.append(
            [
                result["concept"],
                f"{100 * unsteered['concept']:.0f} / {100 * unsteered['profession']:.0f}",
                ceiling,
                f"{result['reach']:.2f}",
                *entries,
            ]
        )
    columns = ["concept", "unsteered", "in the prompt", "reach", *(f"strength {s:g}" for s in STRENGTHS)]
    return (
        "# Discovery on a second architecture\n\n"
        f"SDXL's shape at small width, {trained}, with random weights at first: text attention at the two inner levels "
        "of encoder and decoder, pooled text and size embedding, v-prediction, zeros as the unconditional, images of "
        f"{SIDE} x {SIDE}, h of 8 x 8, {results[0]['evaluations']:,} evaluations, every setting of discovery at its "
        "default. Not shipped. Share of images with the concept, with 95 % intervals / profession recognised, by the "
        "demo model's classifier; one seed, professions that no vector was found on, 20 steps, CFG 4.\n\n"
        + markdown_table(columns, rows)
    )
