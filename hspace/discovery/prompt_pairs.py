"""Pairs of prompts: as a user gives them, and as a batch of images needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..comfy_compat import conds_by_role, merge_conds, mergeable, with_role
from .streams import Stream, generator

_INPUTS = ("concept", "base", "avoid", "empty", "keep")
_WHOLE_IMAGE_ONLY = ("area", "mask", "default")


@dataclass(frozen=True)
class PromptPairs:
    """Prompts with the concept, the same prompts without it, and prompts to stay away from or to leave as they are.

    Args:
        concept, base: CONDITIONING of n entries each; entry i of one pairs up with entry i of the other.
        avoid: CONDITIONING of one entry or n, or None.
        empty: CONDITIONING of one entry, the encoded empty prompt; None for an embedding of zeros.
        texts: what is known of the prompts' wording, by `Provenance` field, e.g. "concept_prompt".
        keep: CONDITIONING of prompts whose images the vector must not change, or None.

    Raises:
        ValueError: numbers that do not match, prompts for a part of the image, or a prompt to keep that is a base
            prompt, whose images the vector is to change.
    """

    concept: list
    base: list
    avoid: list | None = None
    empty: list | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    keep: list | None = None

    def __post_init__(self):
        for name in _INPUTS:
            if (conditioning := getattr(self, name)) is not None:
                _check_prompts(name, conditioning)
        if len(self.concept) != len(self.base):
            raise ValueError(
                f"concept holds {len(self.concept)} prompts and base {len(self.base)}; they pair up one to one. "
                f"Combine as "
                "many prompts into one as into the other, in the same order."
            )
        if self.avoid is not None and len(self.avoid) not in (1, len(self.base)):
            raise ValueError(
                f"avoid holds {len(self.avoid)} prompts; give one, or one for each of the {len(self.base)} pairs."
            )
        if self.empty is not None and len(self.empty) != 1:
            raise ValueError(f"empty holds {len(self.empty)} prompts; give one, an empty CLIP Text Encode.")
        for number, kept in enumerate(self.keep or (), 1):
            if any(_equal(kept, entry) for entry in self.base):
                raise ValueError(
                    f"keep: prompt {number} is one of base as well, so its images would have to change and to stay as "
                    "they are. Connect prompts that have nothing to do with the concept."
                )

    @property
    def same_sides(self) -> bool:
        """True where concept and base say the same, pair by pair, whether they come from one node or from two."""
        return all(_equal(x, y) for x, y in zip(self.concept, self.base, strict=True))

    def check_width(self, width: int | None) -> None:
        """Raise ValueError where prompts come from the text encoder of another kind of model.

        Args:
            width: of the embeddings that the model was made for; None where it is not known.
        """
        for name in _INPUTS:
            for embedding, _ in getattr(self, name) or ():
                if width is not None and embedding.shape[-1] != width:
                    raise ValueError(
                        f"{name}: its embeddings are {embedding.shape[-1]} wide, and the model was made for {width}. "
                        "Connect the CLIP of the same checkpoint to the node that encodes the prompts."
                    )

    def with_roles(self) -> list:
        """One CONDITIONING of all prompts, each tagged with its role; concept is left out where it equals base.

        A prompt to keep comes after the pairs, as one whose sides are all the same, so that its teacher asks for no
        change.
        """
        roles = {"base": self.base} if self.same_sides else {"base": self.base, "concept": self.concept}
        if self.avoid is not None:
            one_for_all = self.keep and len(self.avoid) == 1
            roles["avoid"] = self.avoid * len(self.base) if one_for_all else self.avoid
        roles = {role: conditioning + (self.keep or []) for role, conditioning in roles.items()}
        return [entry for role, conditioning in roles.items() for entry in with_role(conditioning, role)]

    def unconditional(self) -> list:
        """The unconditional prompt, a CONDITIONING of one entry: `empty`, or every embedding zero, as stock
        ConditioningZeroOut makes it.
        """
        return zeroed(self.base) if self.empty is None else self.empty

    def negative_of(self, pair: int) -> list:
        """The negative prompt of a pair's images, a CONDITIONING of one entry: what to avoid, or the unconditional."""
        return self.unconditional() if self.avoid is None else [self.avoid[pair % len(self.avoid)]]


class PreparedPairs:
    """The prompts of a discovery as ComfyUI has prepared them for the model.

    Attributes:
        roles: prepared conds by role: "base", "empty", and, where there are any, "concept" and "avoid".
        count: number of pairs, the prompts to keep included, which come last.
        kept: number of those.
    """

    def __init__(self, conds: dict[str, list[dict]], kept: int = 0):
        self.roles = conds_by_role(conds)
        self.count, self.kept = len(self.roles["base"]), kept

    @property
    def asked(self) -> int:
        """Number of pairs without the prompts to keep."""
        return self.count - self.kept

    @property
    def empty(self) -> list[dict]:
        """The unconditional prompt."""
        return self.roles["empty"]

    @property
    def share_a_batch(self) -> bool:
        """True where images of one batch may have different prompts."""
        return all(mergeable(conds) for conds in self.roles.values())

    def asking(self, pairs: list[int]) -> torch.Tensor:
        """Bool `[len(pairs)]`: false for each pair that is a prompt to keep."""
        return torch.tensor(pairs) < self.asked

    def of_images(self, pairs: list[int]) -> dict[str, list[dict]]:
        """By role (base, concept, avoid), the cond that gives image i of a batch the prompt of pair `pairs[i]`."""
        return {role: self.prompts_of(role, pairs) for role in ("base", "concept", "avoid") if role in self.roles}

    def prompts_of(self, role: str, pairs: list[int]) -> list[dict]:
        """The cond that gives image i of a batch the role's prompt of pair `pairs[i]`."""
        conds = self.roles[role]
        return merge_conds([conds[pair % len(conds)] for pair in pairs])

    def of_batch(self, batch: int, number: int, seed: int, *, keep: bool = True) -> list[int]:
        """The pair of each image of batch `number`: every pair in turn, in an order given by the seed.

        Args:
            keep: whether prompts to keep have their turn too.
        """
        count = self.count if keep else self.asked
        if not self.share_a_batch:
            return [number % count] * batch
        order = torch.randperm(count, generator=generator(seed, Stream.PAIR_ORDER)).tolist()
        return [order[(number * batch + i) % count] for i in range(batch)]


def zeroed(conditioning: list) -> list:
    """The first entry of a CONDITIONING with every embedding zero."""
    embedding, options = conditioning[0]
    zeros = {
        key: torch.zeros_like(options[key])
        for key in ("pooled_output", "conditioning_lyrics")
        if options.get(key) is not None
    }
    return [[torch.zeros_like(embedding), {**options, **zeros}]]


def _equal(x, y) -> bool:
    """Whether two entries of a CONDITIONING, or parts of them, hold the same values."""
    if x is y:
        return True
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return x.shape == y.shape and torch.equal(x.to(y), y)
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        return x.keys() == y.keys() and all(_equal(x[key], y[key]) for key in x)
    if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)):
        return len(x) == len(y) and all(map(_equal, x, y))
    return type(x) is type(y) and isinstance(x, (str, int, float, type(None))) and x == y


def _check_prompts(name: str, conditioning: list) -> None:
    if not conditioning:
        raise ValueError(f"{name}: the conditioning is empty; connect a CLIP Text Encode.")
    for number, (embedding, options) in enumerate(conditioning, 1):
        if not torch.isfinite(embedding).all():
            raise ValueError(
                f"{name}: prompt {number} holds values that are not numbers. Check its prompt weights, and run the "
                "text encoder in fp32."
            )
        bound = [key for key in _WHOLE_IMAGE_ONLY if options.get(key) is not None]
        if bound:
            raise ValueError(
                f"{name}: a conditioning with {bound[0]} acts on a part of the image only; discovery needs "
                "prompts for whole images. Connect the prompt without it."
            )
