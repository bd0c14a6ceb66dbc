"""Picture sets, converted once to mapped uint8 arrays, at full size or shrunk. A spectrogram is a picture too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import Source
from partitions.root import Root

CHUNK = 4096  # pictures converted at a time: keeps the float copies small


@dataclass(frozen=True)
class Images(Source):
    """Pictures of ``size`` rows, and as many columns or a multiple. ``folder`` holds the original files, if kept."""

    name: str
    folder: str
    size: int

    def find(self, place: Path) -> Path | None:
        if store.holds(place, self.name):
            return store.folder(place, self.name)
        return place / self.folder if self.folder and (place / self.folder).is_dir() else None

    def original(self, place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """From ``place / folder``: x_* uint8 (N, C, H, W), y_* and perhaps domain_* int64 (N,); classes, domains."""
        raise NotImplementedError  # a set without a folder is converted when it is imported

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        if image_size and (image_size < 0 or self.size % image_size):
            sizes = ", ".join(str(n) for n in range(1, self.size) if self.size % n == 0)
            raise ValueError(
                f"image-size = {image_size} must divide the {self.size} pixels of {self.name}: {sizes}; 0: as they are"
            )
        size = image_size or self.size
        name = self.name if size == self.size else f"{self.name}-{size}"
        arrays, about = store.read(self.ready(root, name) or self.convert(root, name, size))
        fields: dict[str, Any] = {**arrays, **{key: tuple(value) for key, value in about.items()}}
        return Dataset(self.name, **fields)

    def ready(self, root: Root, name: str) -> Path | None:
        """The arrays called ``name``: of the first place that has the set in any form, or made from it before."""
        first = next((place for place in root.places if store.holds(place, name) or self.find(place)), root.target)
        return next((store.folder(place, name) for place in (first, root.target) if store.holds(place, name)), None)

    def convert(self, root: Root, name: str, size: int) -> Path:
        """Writes the arrays of this ``size`` from the original files, or from the arrays of full size."""
        found = self.need(root)
        if found.name == self.name:
            arrays, about = store.read(found)
        else:
            arrays, about = self.original(found.parent)
        if size != self.size:
            arrays = arrays | {key: shrink(arrays[key], size) for key in ("x_train", "x_test")}
        return save(root.target, name, arrays, about["classes"], about.get("domains", ()))


def save(
    place: Path, name: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str], domains: Sequence[str] = ()
) -> Path:
    """Stores pictures with the mean and standard deviation of their train part, per channel, on a scale of 0 to 1."""
    mean, std = moments(arrays["x_train"])
    about = {"classes": list(classes), "domains": list(domains), "mean": mean, "std": std}
    return store.write(place, name, arrays, about)


def shrink(x: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size * W / H), the average of each square block of pixels."""
    n, channels, height, width = x.shape
    block = height // size
    small = np.empty((n, channels, size, width // block), np.uint8)
    for start in range(0, n, CHUNK):
        part = x[start : start + CHUNK].reshape(-1, channels, size, block, width // block, block)
        small[start : start + CHUNK] = np.round(part.mean(axis=(3, 5), dtype=np.float32))
    return small


def moments(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 (N, C, H, W), exact: from the counts of the 256 values."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(x.shape[1]):
        count = np.zeros(256, np.int64)
        for start in range(0, len(x), CHUNK):
            count += np.bincount(x[start : start + CHUNK, channel].reshape(-1), minlength=256)
        mean = float(levels @ count / count.sum())
        means.append(mean)
        stds.append(float(np.sqrt((levels - mean) ** 2 @ count / count.sum())))
    return means, stds
