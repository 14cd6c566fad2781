"""The resolved state of steering: for a sampling run, and for one call of the U-Net."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..concepts import Response, resize_vector, side_by_side
from .curve import Curve
from .masks import resize_mask


@dataclass
class SteeringRun:
    """The state of one sampling run; lives in that run's transformer_options and dies with it.

    Attributes:
        sigma_start, sigma_end: steer while `sigma_end <= sigma <= sigma_start`.
        positive: uuids of the conditionings under the guider's name "positive"; None where the guider has none.
        areas: (height, width, y, x) in latent pixels of the conditionings that see a crop of the image, by uuid.
        latent: batch, height and width of the latents that are sampled.
        coefficients: by site, float32 `[batch, N]`, strength included.
        mask: `[1 or batch, 1, H, W]` in [0, 1], or None.
        curve: of the strength over the window; None where it is constant.
        cache: finished `SteeringCall`s by all that they depend on.
        warned: true after the run's one warning about tiles under its mask.
        ran: true once the patch was called in the U-Net.
    """

    sigma_start: float
    sigma_end: float
    positive: frozenset | None
    areas: dict[uuid.UUID, tuple[int, ...]]
    latent: tuple[int, int, int]
    coefficients: dict[int, torch.Tensor]
    mask: torch.Tensor | None = None
    curve: Curve | None = None
    cache: dict = field(default_factory=dict)
    warned: bool = False
    ran: bool = False

    @property
    def always(self) -> bool:
        """True where the strength is the same in all of sampling."""
        return self.curve is None and self.sigma_end <= 0 and self.sigma_start >= 1e8  # percent_to_sigma of 1 and of 0

    def factor(self, sigma: torch.Tensor) -> torch.Tensor:
        """Scalar, on the strength at a sigma: 0 outside of the window."""
        inside = ((sigma <= self.sigma_start) & (sigma >= self.sigma_end)).float()
        return inside if self.curve is None else inside * self.curve.at(sigma)

    def __deepcopy__(self, memo):
        # Packs that deep-copy model_options within a step share the run, and its finished tensors, with the original.
        return self


@dataclass
class SteeringCall:
    """The addition to h of one call of the U-Net, by site, and its parts, to compose it again at another size of h.

    Attributes:
        chunks: for each chunk of the batch, true where it is steered.
        images: rows of a chunk that follow one another.
        repeats: how many times the chunks follow one another: once, unless tiles of the image are stacked.
        coefficients: by site, float32 `[images, N]`, or `[1, N]` where all images get the same.
        vectors: N times the tensors of a vector by site, `[C, H, W]` or `[C, 1, 1]`, float32.
        responses: N times the responses of a vector by site.
        masks: a mask `[1 or images, 1, h, w]` for each chunk, or None.
        active: scalar, factor on the strength at this step; None where it is 1 in all of sampling. A tensor, since a
            Python number that changes would recompile the U-Net, and reading it back would wait for the GPU.
        deltas: by site, finished in h's expected size and dtype, or `[..., C, 1, 1]` to broadcast; without `active`.
        joined: by site, the responses of all vectors as one, in h's dtype.
        gates: by site, the coefficients on its inner channels, like `deltas`.
    """

    chunks: tuple[bool, ...]
    images: int
    coefficients: dict[int, torch.Tensor]
    vectors: list[dict[int, torch.Tensor]]
    masks: list[torch.Tensor] | None
    responses: list[dict[int, Response]] = field(default_factory=list)
    repeats: int = 1
    active: torch.Tensor | None = None
    deltas: dict[int, torch.Tensor] = field(default_factory=dict)
    joined: dict[int, Response] = field(default_factory=dict)
    gates: dict[int, torch.Tensor] = field(default_factory=dict)

    def finish(self, sizes: dict[int, tuple[int, int]], device: torch.device, dtype: torch.dtype) -> SteeringCall:
        """Compose `deltas` and `gates` for the expected sizes of h on the CPU, and move everything to the model's
        device.
        """
        for site, size in sizes.items():
            self.deltas[site] = _held(self.compose(site, size), dtype).to(device)
            if responses := [vector[site] for vector in self.responses if site in vector]:
                joined = side_by_side(responses)
                self.joined[site] = Response(*(_held(half, dtype) for half in joined)).to(device)
                self.gates[site] = _held(self.gate(site, size), dtype).to(device)
        self.coefficients = {site: coefficients.to(device) for site, coefficients in self.coefficients.items()}
        self.vectors = [{site: tensor.to(device) for site, tensor in vector.items()} for vector in self.vectors]
        self.masks = None if self.masks is None else [mask.to(device) for mask in self.masks]
        return self

    def added(self, site: int, h: torch.Tensor) -> torch.Tensor:
        """What is added to h `[rows, C, h, w]`, without `active`, in its dtype and on its device."""
        delta = self._fitting(self.deltas[site], self.compose, site, h)
        if site not in self.joined:
            return delta
        gate = self._fitting(self.gates[site], self.gate, site, h)
        return delta + self.joined[site].to(h.device, h.dtype).of(h, gate)

    def _fitting(self, finished: torch.Tensor, compose: Callable, site: int, h: torch.Tensor) -> torch.Tensor:
        if finished.shape[2:] not in (h.shape[2:], (1, 1)):  # something scales h inside the U-Net, e.g. Deep Shrink
            finished = compose(site, h.shape[2:])
        return finished.to(h.device, h.dtype)

    def compose(self, site: int, size) -> torch.Tensor:
        """float32 `[repeats * chunks * images, C, h, w]`, or `[1, C, h, w]` where all of them get the same; h and w
        are 1 where the whole map gets the same.
        """
        columns = [column for column, vector in enumerate(self.vectors) if site in vector]
        tensors = [self.vectors[column][site] for column in columns]
        if self.masks is None and all(tensor.shape[1:] == (1, 1) for tensor in tensors):
            size = (1, 1)
        stack = torch.stack([resize_vector(tensor, size) for tensor in tensors])
        return self._in_rows(torch.einsum("bn,nchw->bchw", self.coefficients[site][:, columns], stack), size)

    def gate(self, site: int, size) -> torch.Tensor:
        """The coefficient of each inner channel of the joined responses, shaped as `compose` does."""
        ranks = {column: vector[site].rank for column, vector in enumerate(self.responses) if site in vector}
        columns = [column for column, rank in ranks.items() for _ in range(rank)]
        return self._in_rows(self.coefficients[site][:, columns, None, None], size)

    def _in_rows(self, delta: torch.Tensor, size) -> torch.Tensor:
        """What each row of the batch gets of `[images, C, h or 1, w or 1]`, under its mask of that size."""
        parts = [delta] * len(self.chunks)
        if self.masks is not None:
            parts = [delta * resize_mask(mask, self.images, size) for mask in self.masks]
        if all(self.chunks) and (len(parts) == 1 or self.masks is None) and parts[0].shape[0] == 1:
            return parts[0]
        rows = [
            (part if steered else torch.zeros_like(part)).expand(self.images, -1, -1, -1)
            for part, steered in zip(parts, self.chunks, strict=True)
        ]
        return torch.cat(rows * self.repeats)


def _held(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in a dtype that can hold it; ValueError where it cannot."""
    tensor = tensor.to(dtype)
    if not tensor.isfinite().all():
        raise ValueError(
            f"strength: the vector times its strength is more than {dtype} can hold. Lower the strength; images break "
            "up far below that."
        )
    return tensor
