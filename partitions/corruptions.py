"""Corruptions of images, as if a device's sensor differed from the sensor that recorded the data set.

Severities are in standard deviations of the network's inputs, so they mean the same for colour, grey and spectrograms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partitions.rng import rng

if TYPE_CHECKING:  # importing torch takes seconds, and only training needs it
    from torch import Tensor

Addresses = Sequence[tuple[int, ...]]
"""For each sample the address of its random numbers (see `partitions.rng`)."""


@dataclass(frozen=True)
class Corruption:
    """One corruption: ``kind`` is a key of ``CORRUPTIONS``, ``severity`` is 0 (none) to 1 (hard to recognise)."""

    kind: str
    severity: float


@dataclass(frozen=True, eq=False)
class CorruptedRows:
    """Samples of a draw that share one corruption.

    Args:
        rows: positions of the samples in the draw (n,).
        corruption: kind and severity.
        addresses: addresses of the samples' noise (n). A sample gets the same noise at every step and on every engine.
    """

    rows: np.ndarray
    corruption: Corruption
    addresses: Addresses


Corruptions = tuple[CorruptedRows, ...]  # empty: all samples are as in the data set


def corrupt(x: "Tensor", corruptions: Corruptions) -> "Tensor":
    """Apply the corruptions of a draw to its inputs.

    Args:
        x: inputs (N, C, H, W) of all samples of the draw.
        corruptions: which rows to corrupt, and how.

    Returns:
        A corrupted copy (N, C, H, W), or ``x`` itself if there are no corruptions.
    """
    if not corruptions:
        return x
    corrupted = x.clone()
    for part in corruptions:
        change = CORRUPTIONS[part.corruption.kind]
        corrupted[part.rows] = change(x[part.rows], part.corruption.severity, part.addresses)
    return corrupted


def noise(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Add Gaussian noise of up to 1 standard deviation."""
    drawn = [rng(*address).standard_normal(x.shape[1:], np.float32) for address in addresses]
    return x + severity * x.new_tensor(np.stack(drawn))


def blur(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Apply a Gaussian blur whose sigma is up to a sixteenth of the shorter side."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = severity * min(x.shape[2:]) / 16
    return gaussian_blur(x, 2 * math.ceil(3 * sigma) + 1, sigma)


def brightness(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Add up to 2 standard deviations to every pixel."""
    return x + 2 * severity


def rotation(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Rotate counter-clockwise by up to 60 degrees; the mean colour fills the corners."""
    from torchvision.transforms.functional import InterpolationMode, rotate

    return rotate(x, 60 * severity, InterpolationMode.BILINEAR, fill=[0.0])


def impulse(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Set up to 30 % of the pixels of an image to its darkest or its brightest value."""
    drawn = x.new_tensor(np.stack([rng(*address).random((1, *x.shape[2:]), np.float32) for address in addresses]))
    half = 0.15 * severity
    darkest, brightest = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return x.where(drawn >= half, darkest).where(drawn < 1 - half, brightest)


def contrast(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Move every pixel by up to 90 % towards the mean of its image."""
    return x.lerp(x.mean((1, 2, 3), keepdim=True), 0.9 * severity)


def pixelate(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Average blocks of pixels; at most a quarter of the rows and columns remain."""
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    size = [max(1, round(n * (1 - 0.75 * severity))) for n in x.shape[2:]]
    return resize(resize(x, size, InterpolationMode.BILINEAR), list(x.shape[2:]), InterpolationMode.NEAREST)


def elastic(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Displace pixels smoothly, by up to an eighth of the shorter side."""
    from torch import stack
    from torchvision.transforms.v2.functional import elastic as displace
    from torchvision.transforms.v2.functional import resize

    height, width = x.shape[2:]
    reach = severity * min(height, width) / 8 * np.array([2 / width, 2 / height], np.float32)
    moved = []
    for image, address in zip(x, addresses, strict=True):
        coarse = x.new_tensor(rng(*address).uniform(-1, 1, (1, 2, 4, 4)))
        field = resize(coarse, [height, width]).permute(0, 2, 3, 1) * x.new_tensor(reach)
        moved.append(displace(image, field, fill=[0.0]))
    return stack(moved)


def jpeg(x: "Tensor", severity: float, addresses: Addresses) -> "Tensor":
    """Compress each channel as JPEG with a quality of 100 down to 5."""
    from torch import stack, uint8
    from torchvision.transforms.v2.functional import jpeg as compress

    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    scale = (high - low).clamp(min=1e-6) / 255
    channels = ((x - low) / scale).round().to(uint8).flatten(0, 1)[:, None]
    compressed = stack([compress(channel, round(100 - 95 * severity)) for channel in channels])
    return compressed.view_as(x) * scale + low


CORRUPTIONS: Mapping[str, Callable[["Tensor", float, Addresses], "Tensor"]] = {
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "rotation": rotation,
    "impulse": impulse,
    "contrast": contrast,
    "pixelate": pixelate,
    "elastic": elastic,
    "jpeg": jpeg,
}
