"""The main job from the shell: `python -m scripts.demo`, or `make demo`.

Runs `workflows/discover_and_steer.json` on a real ComfyUI and says what came of it. Leaves in output/demo/: the vector,
the loss plot, and a strip of images, unsteered above and steered below, same seeds.
"""

from __future__ import annotations

import json
import shutil
import time

from .comfy_server import Server, running_server
from .comfyui import ROOT, find_comfyui

WORKFLOW = ROOT / "workflows" / "discover_and_steer.json"
OUTPUT = ROOT / "output" / "demo"
PROFESSION, GENDER = "judge", 1


class Terminal:
    """Prints each node as it runs, its progress, and how long it took."""

    def __init__(self, prompt: dict):
        self.names = {
            node: entry.get("_meta", {}).get("title") or entry["class_type"] for node, entry in prompt.items()
        }
        self.node: str | None = None
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}

    def __call__(self, event: dict) -> None:
        data = event.get("data") or {}
        if event.get("type") == "executing":
            self._finish()
            self.node, self.began = data.get("node"), time.monotonic()
        elif event.get("type") == "progress" and self.node is not None:
            print(f"\r  {self.names.get(self.node, '')}: {data['value']}/{data['max']}   ", end="", flush=True)

    def _finish(self) -> None:
        took = time.monotonic() - self.began
        if self.node is not None and took > 0.5:
            name = self.names.get(self.node, self.node)
            self.seconds[name] = self.seconds.get(name, 0) + took
            print(f"\r  {name}: {took:.1f} s            ", flush=True)


def main() -> None:
    """Run the demo; one line says what to do where it fails."""
    began = time.monotonic()
    try:
        with running_server() as server:
            print(
                f"ComfyUI is up after {time.monotonic() - began:.1f} s; running {WORKFLOW.relative_to(ROOT)}",
                flush=True,
            )
            images = run(server)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"\n{error}: install it into this Python (`pip install {error.name}`), or unset COMFYUI_PATH."
        ) from error
    except (RuntimeError, OSError) as error:
        raise SystemExit(
            f"\nThe demo failed: {error}\nRun it again with a clean `make setup`, or report this message."
        ) from error
    rates = judge(images)
    for name, (concept, profession) in rates.items():
        shares = f"{100 * concept:5.1f} % women, {100 * profession:5.1f} % still a {PROFESSION}"
        print(f"{name:>10}: {shares} ({len(images[name])} images)")
    print(f"All in all {time.monotonic() - began:.0f} s. Look at {OUTPUT.relative_to(ROOT)}/strip.png")


def run(server: Server) -> dict:
    """Queue the workflow, collect its files in OUTPUT; returns the images by name."""
    from PIL import Image

    from .paired_strip import paired_strip

    prompt = server.convert(WORKFLOW)
    terminal = Terminal(prompt)
    server.run(prompt, on_event=terminal)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    images = {
        name: [Image.open(file).convert("RGB") for file in sorted((server.output / "demo").glob(f"{name}_*.png"))]
        for name in ("unsteered", "steered")
    }
    (vector,) = (server.base / "models" / "concept_vectors" / "demo").glob("*.safetensors")
    (plot,) = (server.output / "demo").glob("loss_plot_*.png")
    shutil.copy(vector, OUTPUT / "woman.safetensors")
    shutil.copy(plot, OUTPUT / "loss_plot.png")
    paired_strip([images["unsteered"], images["steered"]]).save(OUTPUT / "strip.png")
    (OUTPUT / "seconds.json").write_text(json.dumps(terminal.seconds, indent=1) + "\n")
    return images


def as_tensor(images: list):
    """IMAGE tensor of RGB pictures of Pillow."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).float() / 255


def share(found, wanted: int) -> float:
    """Share of the images, 0 to 1, in which this class was found; `found` is `[images]`."""
    return (found == wanted).double().mean().item()


def judge(images: dict) -> dict[str, tuple[float, float]]:
    """Shares of women and of recognised professions, by the demo model's classifier."""
    find_comfyui()
    from demo.captions import PROFESSION_INDEX
    from demo.classifier import classify, load_classifier

    rates = {}
    for name in ("unsteered", "steered"):
        seen = classify(load_classifier(), as_tensor(images[name]))
        rates[name] = (share(seen.gender, GENDER), share(seen.profession, PROFESSION_INDEX[PROFESSION]))
    return rates


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nStopped; the server is down.") from None
