"""The training of the demo model: `python -m demo.training.train`, see there."""

from scripts.comfyui import find_comfyui

find_comfyui()  # before the stages, which are made of ComfyUI's classes
