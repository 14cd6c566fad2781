"""Train the whole demo model: tokenizer, VAE, classifier, sharper VAE decoder, text encoder, U-Net, then measure it.

One command, `make demo-model`. Deterministic from the seed; a stage that was interrupted goes on from its last
checkpoint, and one that is finished goes straight to its result; `--stage` picks stages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

STAGES = ("tokenizer", "vae", "classifier", "decoder", "text", "unet", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/demo"), help="renders, latents and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--unet-steps", type=int, default=9000)
    parser.add_argument("--unet-stop", type=int, help="stop the U-Net stage at this step of its schedule")
    options = parser.parse_args()
    stages = options.stage or STAGES
    if "tokenizer" in stages:
        from .build_tokenizer import build

        print(f"tokenizer: {build()} tokens", flush=True)
    if "vae" in stages:
        from .train_vae import train

        print(f"vae: {train(options.cache, options.seed):.2f} dB", flush=True)
    if "classifier" in stages:
        from .train_classifier import train

        print("classifier, held-out accuracy:", train(options.cache, options.seed), flush=True)
    if "decoder" in stages:
        from .train_decoder import train

        print("autoencoder with its sharper decoder:", train(options.cache, options.seed), flush=True)
    if "text" in stages:
        from .train_text import train

        print(f"text encoder: {100 * train(options.seed):.2f} % of what captions name", flush=True)
    if "unet" in stages:
        from .train_unet import train

        train(options.cache, options.seed, options.unet_steps, stop=options.unet_stop)
    if "evaluate" in stages:
        from .evaluate import main as evaluate

        evaluate(cache=options.cache)


if __name__ == "__main__":
    main()
