"""The provenance of a vector: how it was discovered, and its measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

VERDICTS = ("not there at any strength", "there without the vector")
"""Values of `strength_verdict` that are known here; a file may hold any text."""
LONGEST_NUMBER = 40
"""Characters of a number in a file."""
_FORMATS = {"reach": ".4g", "scale": ".4g", "final_loss": ".6g"}
_STRENGTHS = ("strength_saturates", "strength_saturates_low", "strength_saturates_high", "strength_breaks")
_FORMATS |= dict.fromkeys(_STRENGTHS, ".3g")


@dataclass(frozen=True)
class Provenance:
    """The description of a vector in its file, beside name and tensors. Every value may be missing.

    Attributes:
        base_model: `family:fingerprint` of the U-Net.
        prediction_type: "epsilon", "v_prediction" and so on.
        latent_height, latent_width: size in latent pixels of the images that it was found on.
        concept_prompt, base_prompt, avoid_prompt, keep_prompt: prompts, joined by " | ".
        method: name of the recipe.
        pairs: number of prompt pairs.
        steps, batch_size, learning_rate, guidance, seed: settings of the discovery.
        spatial_mean: true where the vector is the mean of the map that was learnt.
        sites: "decoder" where it acts on all decoder blocks.
        model_patches: which patches the model had, e.g. "128 weights (LoRA, merge ...)".
        reach: how far it moved predictions along the concept before it was scaled (`objective.relative_reach`).
        scale: factor that calibration multiplied it by.
        strength_saturates: strength from which nearly as many images show the concept as with it in the prompt.
        strength_saturates_low, strength_saturates_high: its 95 % interval; the high end is missing where it may be at
            no strength.
        strength_verdict: why there is no such strength, e.g. "not there at any strength".
        strength_breaks: strength at which images begin to break.
        evaluations: U-Net evaluations that finding it cost, one image each.
        final_loss: mean loss of the last tenth of the steps.
        created_with: program and version.
        other: texts under keys that are not known here, or whose values are not numbers where numbers are expected.
    """

    base_model: str = ""
    prediction_type: str = ""
    latent_height: int | None = None
    latent_width: int | None = None
    concept_prompt: str = ""
    base_prompt: str = ""
    avoid_prompt: str = ""
    keep_prompt: str = ""
    method: str = ""
    pairs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    guidance: float | None = None
    seed: int | None = None
    spatial_mean: bool = False
    sites: str = ""
    model_patches: str = ""
    reach: float | None = None
    scale: float | None = None
    strength_saturates: float | None = None
    strength_breaks: float | None = None
    strength_saturates_low: float | None = None
    strength_saturates_high: float | None = None
    strength_verdict: str = ""
    evaluations: int | None = None
    final_loss: float | None = None
    created_with: str = ""
    other: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "other", MappingProxyType(dict(self.other)))

    def __reduce__(self):
        # A mapping proxy cannot be copied or pickled, and packs deep-copy what travels through graphs.
        return _restore, ({**self._known(), "other": dict(self.other)},)

    def to_strings(self) -> dict[str, str]:
        """All that is known as strings by key, as safetensors' metadata store it."""
        known = {
            key: value
            for key, value in self._known().items()
            if value is not None and value is not False and value != ""
        }
        return {key: _text(key, value) for key, value in known.items()} | dict(self.other)

    @classmethod
    def from_strings(cls, texts: Mapping[str, str]) -> Provenance:
        """The inverse of `to_strings`. Files come from strangers: what cannot be read goes to `other` as it is."""
        known, other = {}, {}
        for key, text in texts.items():
            value = _value(_KINDS[key], text) if key in _KINDS else None
            if value is None:
                other[key] = text
            else:
                known[key] = value
        return cls(**known, other=other)

    def range_text(self) -> str:
        """The strengths between which the vector works, in words; "" where they were not measured."""
        start, end = self.strength_saturates or 0, self.strength_breaks or 0
        low, high = self.strength_saturates_low, self.strength_saturates_high
        upper = " or more" if high is None else f" to {high:.3g}"
        spread = "" if low is None or low == high else f" (95 % interval {low:.3g}{upper})"
        parts = [f"the concept is there from strength {start:.3g} on{spread}"] if start > 0 else []
        parts += [f"the concept is {self.strength_verdict}"] if self.strength_verdict in VERDICTS else []
        parts += [f"images begin to break at {end:.3g}"] if end > 0 else []
        return ", ".join(parts)

    def _known(self) -> dict[str, str | int | float | bool | None]:
        return {name: getattr(self, name) for name in _KINDS}


_KINDS: dict[str, str] = {
    item.name: str(item.type).split(" ")[0] for item in fields(Provenance) if item.name != "other"
}


def _restore(values: dict) -> Provenance:
    return Provenance(**values)


def _text(key: str, value: str | int | float | bool | None) -> str:
    if isinstance(value, bool):
        return "true"
    return f"{value:{_FORMATS.get(key, 'g')}}" if isinstance(value, float) else str(value)


def _value(kind: str, text: str) -> str | int | float | bool | None:
    """The value that a text stands for; None where it stands for none of that kind."""
    if kind == "str":
        return text or None
    if kind == "bool":
        return True if text == "true" else None
    if len(text) > LONGEST_NUMBER:
        return None
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
