"""How samples look on a device when its sensor differs from the one that recorded the data set.

All is in units of the network's input, i.e. of the standard deviation over the train part, so that it means the same
for colour, grey and spectrograms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partitions.rng import rng

if TYPE_CHECKING:  # torch costs seconds, and only those who train need it
    from torch import Tensor


@dataclass(frozen=True)
class Change:
    """``kind`` is a name of ``CORRUPTIONS``; ``severity`` is 0 (none) to 1 (hard to recognise)."""

    kind: str
    severity: float


@dataclass(frozen=True, eq=False)
class Part:
    """Samples of a draw that look alike: their positions ``rows`` (n,), their ``change``, and for each of them the
    ``addresses`` (n) of its noise: the same sample looks the same for as long as it is held, on any engine.
    """

    rows: np.ndarray
    change: Change
    addresses: Sequence[tuple[int, ...]]


Look = tuple[Part, ...]  # empty: as the data set has it


def apply(x: "Tensor", look: Look) -> "Tensor":
    """Inputs (N, C, H, W) of a draw as the device sees them; ``x`` itself if nothing changes."""
    if not look:
        return x
    seen = x.clone()
    for part in look:
        seen[part.rows] = CORRUPTIONS[part.change.kind](x[part.rows], part.change.severity, part.addresses)
    return seen


def noise(x: "Tensor", severity: float, addresses: Sequence[tuple[int, ...]]) -> "Tensor":
    """Gaussian noise, up to 1 standard deviation."""
    drawn = [rng(*address).standard_normal(x.shape[1:], np.float32) for address in addresses]
    return x + severity * x.new_tensor(np.stack(drawn))


def blur(x: "Tensor", severity: float, addresses: Sequence[tuple[int, ...]]) -> "Tensor":
    """Gaussian blur, up to a sixteenth of the shorter side."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = severity * min(x.shape[2:]) / 16
    return gaussian_blur(x, 2 * math.ceil(3 * sigma) + 1, sigma)


def brightness(x: "Tensor", severity: float, addresses: Sequence[tuple[int, ...]]) -> "Tensor":
    """Brighter, by up to 2 standard deviations."""
    return x + 2 * severity


def rotation(x: "Tensor", severity: float, addresses: Sequence[tuple[int, ...]]) -> "Tensor":
    """Turned counter-clockwise, by up to 60 degrees; the corners are filled with the mean colour."""
    from torchvision.transforms.functional import InterpolationMode, rotate

    return rotate(x, 60 * severity, InterpolationMode.BILINEAR, fill=[0.0])


CORRUPTIONS: Mapping[str, Callable[["Tensor", float, Sequence[tuple[int, ...]]], "Tensor"]] = {
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "rotation": rotation,
}
