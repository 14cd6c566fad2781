"""Shares of labels among the images of a batch, judged zero-shot by CLIP, and the paper's deviation ratio.

Text and images are encoded by the towers that ComfyUI has loaded: the pooled, projected output of the text encoder and
the projected output of CLIP vision. Both must come from the same CLIP, and that is harder than it sounds: the text
encoders that image models carry mostly lack the projection into the space they share; see `_find_tower`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import comfy.utils
import numpy as np
import torch
import torch.nn.functional as F

from ..comfy_compat import clip_text_towers, projected_texts, text_projection, vision_projection

LOGIT_SCALE = 100.0
"""CLIP's trained scale: probabilities are the softmax of 100 x cosine."""
MARGIN = 0.05
"""An image is left unjudged where the probabilities of its two best labels lie closer together than this."""
FAIR_COSINE = 0.1
"""Images and labels that fit have cosines of 0.15 to 0.35. A mean below this calls for a warning."""
CHUNK = 16
"""Images per call of the vision tower, so that memory does not grow with the batch."""
LISTED = 64
REMEDY = (
    "Load CLIP-L with its projection: put 'model.safetensors' of openai/clip-vit-large-patch14 into both "
    "models/text_encoders and models/clip_vision, and use CLIPLoader (type stable_diffusion) and Load CLIP Vision."
)


@dataclass(frozen=True)
class Balance:
    """CLIP's judgement of a batch of images.

    Args:
        labels: n texts.
        cosines: float32 `[B, n]`, similarity of each image to each label in [-1, 1]; not finite where an image could
            not be encoded.

    Raises:
        ValueError: not one image could be judged.
    """

    labels: tuple[str, ...]
    cosines: torch.Tensor

    def __post_init__(self):
        if not sum(self.counts):
            raise ValueError(
                f"images: none of the {len(self.cosines)} images could be judged, {self._unjudged()}. Use images that "
                "show what the labels name, and labels that differ more."
            )

    @cached_property
    def probabilities(self) -> torch.Tensor:
        """float32 `[B, n]`, rows sum to 1; not a number where an image could not be encoded."""
        return (LOGIT_SCALE * self.cosines).softmax(-1)

    @cached_property
    def verdicts(self) -> list[int | None]:
        """Index of each image's label; None for images that could not be judged: not encoded, or too close to call."""
        best = self.probabilities.topk(2)
        clear = best.values[:, 0] - best.values[:, 1] >= MARGIN  # false for NaN
        return [
            index if judged else None for index, judged in zip(best.indices[:, 0].tolist(), clear.tolist(), strict=True)
        ]

    @cached_property
    def counts(self) -> list[int]:
        """Judged images of each label."""
        return [self.verdicts.count(index) for index in range(len(self.labels))]

    @property
    def deviation(self) -> float:
        """`deviation_ratio` of the judged images."""
        return deviation_ratio(self.counts)

    @property
    def warning(self) -> str:
        """Empty, or why the figures are not to be trusted."""
        judged = torch.tensor([verdict is not None for verdict in self.verdicts])
        similarity = self.cosines[judged].amax(-1).mean().item()
        if similarity >= FAIR_COSINE:
            return ""
        return (
            f"WARNING: the best label of an image has a mean cosine of {similarity:.2f}; 0.15 to 0.35 is usual. The "
            "labels do not fit the images, or the text encoder and CLIP vision are not of one CLIP. Do not trust this."
        )

    def report(self) -> str:
        """Counts, deviation, what chance alone does, what was not judged, and the verdict on each of the first 64."""
        judged = sum(self.counts)
        lines = [self.warning] if self.warning else []
        lines.append(f"{judged} of {len(self.cosines)} images judged")
        lines += [
            f"{label}: {count} ({count / judged:.0%})" for label, count in zip(self.labels, self.counts, strict=True)
        ]
        lines.append(f"deviation: {self.deviation:.2f} (0: all labels alike, 1: one label only)")
        chance = chance_deviation(len(self.labels), judged)
        lines.append(f"chance: an even model stays at or below {chance:.2f} in 95 of 100 batches of {judged}")
        if judged < len(self.cosines):
            lines.append(f"not judged, and counted nowhere: {self._unjudged()}")
        lines += ["", *(self._line(index) for index in range(min(LISTED, len(self.cosines))))]
        if len(self.cosines) > LISTED:
            lines.append(f"... and {len(self.cosines) - LISTED} more")
        return "\n".join(lines)

    def _line(self, index: int) -> str:
        verdict = self.verdicts[index]
        if verdict is not None:
            return f"{index}: {self.labels[verdict]} ({self.probabilities[index, verdict]:.0%})"
        return f"{index}: not judged, {'too close to call' if self._encoded[index] else 'not finite'}"

    def _unjudged(self) -> str:
        failed = self._encoded.count(False)
        close = self.verdicts.count(None) - failed
        return f"{close} too close to call (margin {MARGIN:g}), {failed} not finite (broken images)"

    @cached_property
    def _encoded(self) -> list[bool]:
        return self.cosines.isfinite().all(-1).tolist()


def deviation_ratio(counts: list[int]) -> float:
    """The paper's bias measure: `max_i |r_i - 1/n| / (1 - 1/n)` over the shares r_i of n labels, in [0, 1].

    0 where all labels are equally frequent, 1 where one has everything. At least two labels and one image.
    """
    even = 1 / len(counts)
    return max(abs(count / sum(counts) - even) for count in counts) / (1 - even)


def chance_deviation(labels: int, images: int) -> float:
    """The deviation that an even model exceeds in at most one batch of 20, by simulation."""
    counts = np.random.default_rng(0).multinomial(images, [1 / labels] * labels, size=4000)
    deviations = np.abs(counts / images - 1 / labels).max(axis=1) / (1 - 1 / labels)
    return float(np.quantile(deviations, 0.95, method="higher"))


def parse_labels(text: str) -> tuple[str, ...]:
    """One label a line; blank lines and repetitions are dropped. CLIP reads no capitals, so neither does this.

    Raises:
        ValueError: fewer than two distinct labels.
    """
    labels: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        labels.setdefault(" ".join(line.casefold().split()), line)
    if len(labels) < 2:
        only = f"only '{next(iter(labels.values()))}'" if labels else "none"
        raise ValueError(
            f"labels: two or more distinct labels are needed, one on each line, found {only}. Describe what an image "
            "may show, e.g. 'a photo of a man' and 'a photo of a woman'."
        )
    return tuple(labels.values())


@torch.no_grad()
def measure_balance(images: torch.Tensor, clip, clip_vision, labels: tuple[str, ...]) -> Balance:
    """Judge images with the CLIP towers of ComfyUI's objects.

    Args:
        images: IMAGE `[B, H, W, 3 or 4]` in [0, 1]; resized and cropped to the centre square as CLIP does.
        clip: ComfyUI's CLIP, with the text encoder of a CLIP in it.
        clip_vision: ComfyUI's ClipVisionModel.
        labels: two or more distinct texts.

    Raises:
        ValueError: towers that are not of one CLIP or lack their projection, labels too long for CLIP, or no image
            that could be judged.
    """
    texts = encode_labels(clip, labels, _vision_width(clip_vision))
    progress = comfy.utils.ProgressBar(len(images))
    cosines = []
    for chunk in images.split(CHUNK):
        embeds = clip_vision.encode_image(chunk)["image_embeds"].float().cpu()
        cosines.append(F.normalize(embeds, dim=-1) @ texts.T)
        progress.update(len(chunk))
    return Balance(labels, torch.cat(cosines))


def encode_labels(clip, labels: tuple[str, ...], width: int) -> torch.Tensor:
    """float32 `[n, width]` on the CPU, unit length: the labels in the space that text and images share.

    Raises:
        ValueError: no text encoder with a real projection to that width, or a label longer than CLIP reads.
    """
    clip.load_model()  # before the weights are looked at: this is what applies patches such as LoRAs
    # Brackets in a label are text here, not weights.
    tokens = [clip.tokenize(label, disable_weights=True) for label in labels]
    key, tower = _find_tower(clip, tokens[0], width)
    too_long = [label for label, token in zip(labels, tokens, strict=True) if len(token[key]) > 1]
    if too_long:
        raise ValueError(f"labels: '{too_long[0]}' is longer than the 75 tokens CLIP reads. Shorten it.")
    texts = projected_texts(clip, tower, [token[key] for token in tokens])
    if not texts.isfinite().all():
        raise ValueError(f"clip: the text encoder gives values that are not finite. {REMEDY}")
    return F.normalize(texts, dim=-1)


def _vision_width(clip_vision) -> int:
    projection = vision_projection(clip_vision)
    if projection is None:  # SigLIP and DINOv2 are loaded by the same node
        raise ValueError(
            f"clip_vision: this {type(clip_vision.model).__name__} has no projection into the space of a CLIP text "
            f"encoder (SigLIP and DINOv2 have none). {REMEDY}"
        )
    return projection.shape[0]


def _find_tower(clip, tokens: dict, width: int):
    """ComfyUI's key and `SDClipModel` of the text encoder that projects to `width`.

    A projection that the file did not have is what it was before loading: the identity in older versions of ComfyUI,
    uninitialised memory in newer ones. Of the latter, zeros and values that are not finite are seen here; the rest
    shows as cosines around 0, for which `Balance` warns.
    """
    towers = {key: tower for key, tower in clip_text_towers(clip).items() if key in tokens}
    if not towers:
        raise ValueError(f"clip: {type(clip.cond_stage_model).__name__} holds no CLIP text encoder. {REMEDY}")
    weights = {key: text_projection(tower) for key, tower in towers.items()}
    for key, weight in weights.items():
        if weight.shape[0] != width:
            continue
        weight = weight.float().cpu()
        if not weight.isfinite().all() or not weight.any(dim=1).all() or torch.equal(weight, torch.eye(*weight.shape)):
            raise ValueError(
                "clip: the file of this text encoder has no text projection (checkpoints of SD 1.x and SDXL lack "
                "it for "
                f"CLIP-L), so its labels cannot be compared with images. {REMEDY}"
            )
        return key, towers[key]
    widths = " and ".join(str(weight.shape[0]) for weight in weights.values())
    raise ValueError(
        f"clip: the text encoder projects to {widths} values, but clip_vision to {width}; they are of different CLIPs. "
        f"{REMEDY}"
    )
