"""The attribute classifier that judges images of the demo model: gender, skin tone, profession, weapon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .captions import GENDERS, PROFESSIONS, SKIN_TONES

WEIGHTS = Path(__file__).parent / "weights" / "classifier.safetensors"
HEADS = {"gender": len(GENDERS), "skin_tone": len(SKIN_TONES), "profession": len(PROFESSIONS), "weapon": 2}


class AttributeClassifier(nn.Module):
    """A small residual convolutional network with one linear head an attribute.

    Input `[batch, 3, 128, 128]` in [0, 1]; output a dict of logits `[batch, classes]` under the keys of `HEADS`.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 144, 192)):
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for width in widths:
            layers += [
                nn.Conv2d(previous, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False, groups=width // 24),
                nn.BatchNorm2d(width),
                nn.SiLU(),
            ]
            previous = width
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(previous * 2, classes) for name, classes in HEADS.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = self.pooled(images)
        return {name: head(pooled) for name, head in self.heads.items()}

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """What the heads see of images, `[batch, 384]`."""
        features = self.trunk(images - 0.5)
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)


@dataclass(frozen=True)
class Attributes:
    """Classes of a batch of images, each an int64 tensor `[batch]`: indices into the tables of `captions`."""

    gender: torch.Tensor
    skin_tone: torch.Tensor
    profession: torch.Tensor
    weapon: torch.Tensor


def load_classifier() -> AttributeClassifier:
    """The trained classifier on the CPU, in evaluation mode."""
    model = AttributeClassifier()
    model.load_state_dict({key: value.float() for key, value in load_file(WEIGHTS).items()})
    return model.eval()


@torch.no_grad()
def classify(model: AttributeClassifier, images: torch.Tensor, batch_size: int = 64) -> Attributes:
    """Judge IMAGE tensors `[batch, 128, 128, 3]` in [0, 1], as ComfyUI's VAEDecode gives them."""
    logits = [model(part.movedim(-1, 1).float()) for part in images.split(batch_size)]
    return Attributes(**{name: torch.cat([part[name].argmax(1) for part in logits]) for name in HEADS})
