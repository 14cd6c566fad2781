"""Benchmarks on the demo model: `python -m benchmarks`, from the repository's root, lists them."""

from scripts.comfyui import find_comfyui

find_comfyui()  # before the modules, which import ComfyUI's
