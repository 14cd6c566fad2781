"""Emoji people as pixels: fetches the three icon packages from the npm registry and renders them with resvg.

Needed at training time only. Sources and licences are in the model card.
"""

from __future__ import annotations

import functools
import io
import json
import random
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from ..captions import GENDERS, PROFESSION_INDEX, PROFESSIONS, SKIN_TONES, STYLES, WEAPONS, Person

PACKAGES = {
    "noto": ("@iconify-json/noto", "1.2.9"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5"),
    "fluent": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
}
SIZE = 128
FIGURE = 116
WEAPON = 54
BACKGROUNDS = (
    (255, 255, 255),
    (223, 236, 247),
    (247, 232, 222),
    (226, 243, 226),
    (243, 226, 241),
    (250, 244, 214),
    (222, 222, 226),
    (196, 222, 224),
)


def _icons(style: str, cache: Path) -> dict:
    name, version = PACKAGES[style]
    path = cache / f"{style}-{version}.json"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=cache, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        with tarfile.open(cache / packed) as archive:
            path.write_bytes(archive.extractfile("package/icons.json").read())
        (cache / packed).unlink()
    return json.loads(path.read_text())


def _svg(icons: dict, name: str) -> str:
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


def _render(svg: str, size: int) -> np.ndarray:
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


class Renders:
    """All figures and weapons of the three styles as RGBA, and the compositing of one training image."""

    def __init__(self, cache: Path):
        self.cache = Path(cache)

    @functools.cached_property
    def _arrays(self):
        path = self.cache / "renders.npz"
        if not path.exists():
            figures = np.zeros((len(STYLES), len(PROFESSIONS), 2, 5, FIGURE, FIGURE, 4), np.uint8)
            weapons = np.zeros((len(STYLES), len(WEAPONS), WEAPON, WEAPON, 4), np.uint8)
            for s, style in enumerate(STYLES):
                icons = _icons(style, self.cache)
                suffix = "" if style == "fluent" else "-skin-tone"
                for p, profession in enumerate(PROFESSIONS):
                    for g, gender in enumerate(GENDERS):
                        for t, tone in enumerate(SKIN_TONES):
                            name = f"{gender}-{profession}-{tone.replace(' ', '-')}{suffix}"
                            figures[s, p, g, t] = _render(_svg(icons, name), FIGURE)
                for w, weapon in enumerate(WEAPONS):
                    name = weapon.replace(" ", "-")
                    if name == "pistol" and "pistol" not in {**icons["icons"], **icons.get("aliases", {})}:
                        name = "water-pistol"
                    weapons[s, w] = _render(_svg(icons, name), WEAPON)
            np.savez(path, figures=figures, weapons=weapons)
        data = np.load(path)
        return data["figures"], data["weapons"]

    def compose(self, person: Person, rng: random.Random) -> np.ndarray:
        """`[128, 128, 3]` uint8: the figure on a plain background, mirrored half of the time, weapon in a corner."""
        figures, weapons = self._arrays
        canvas = np.empty((SIZE, SIZE, 3), np.float32)
        canvas[:] = rng.choice(BACKGROUNDS)
        figure = figures[person.style, PROFESSION_INDEX[person.profession], person.gender, person.skin_tone]
        margin = SIZE - FIGURE
        _paste(canvas, figure, margin // 2 + rng.randint(-4, 4), margin // 2 + rng.randint(-4, 4))
        if person.weapon:
            weapon = weapons[person.style, rng.randrange(len(WEAPONS))]
            _paste(canvas, weapon, SIZE - WEAPON - rng.randint(0, 4), SIZE - WEAPON - rng.randint(0, 4))
        if rng.random() < 0.5:
            canvas = canvas[:, ::-1]
        return np.ascontiguousarray(canvas).round().astype(np.uint8)


def _paste(canvas: np.ndarray, rgba: np.ndarray, top: int, left: int) -> None:
    region = canvas[top : top + rgba.shape[0], left : left + rgba.shape[1]]
    alpha = rgba[..., 3:].astype(np.float32) / 255
    region[:] = rgba[..., :3] * alpha + region * (1 - alpha)
