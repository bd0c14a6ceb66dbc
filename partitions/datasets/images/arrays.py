"""Image data sets, converted once to mapped uint8 arrays, at full size or shrunk. Spectrograms are images, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import Source
from partitions.root import Root

CHUNK = 4096  # images converted at a time, to keep the float copies small


@dataclass(frozen=True)
class Images(Source):
    """Read image data sets from their original files or from arrays.

    Args:
        name: the data set's name, also of its arrays.
        subfolder: folder of the original files in a data folder; empty: they are converted when they are imported.
        size: rows of pixels; there are as many columns, or a multiple.
    """

    name: str
    subfolder: str
    size: int

    def find(self, folder: Path) -> Path | None:
        original = folder / self.subfolder
        return store.find(folder, self.name) or (original if self.subfolder and original.is_dir() else None)

    def read_original(self, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read the original files in ``folder / subfolder``; a data set without a subfolder does not need this.

        Returns:
            Arrays x_* uint8 (N, C, H, W), y_* and optionally domain_* int64 (N,); and names: classes, domains.
        """
        raise NotImplementedError

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        if image_size and (image_size < 0 or self.size % image_size):
            sizes = ", ".join(str(n) for n in range(1, self.size) if self.size % n == 0)
            raise ValueError(
                f"data.image-size = {image_size} must divide the {self.size} rows of pixels of {self.name}: use "
                f"{sizes}, or 0 for the full size"
            )
        size = image_size or self.size
        name = self.name if size == self.size else f"{self.name}-{size}"
        arrays, metadata = store.read(self.stored(root, name) or self.convert(root, name, size))
        fields: dict[str, Any] = {**arrays, **{key: tuple(value) for key, value in metadata.items()}}
        return Dataset(self.name, **fields)

    def stored(self, root: Root, name: str) -> Path | None:
        """Return the folder of the arrays called ``name``, None if there are none.

        They are in the first folder that has the data set in any form, or were converted from that form before.
        """
        first = next((each for each in root.folders if store.find(each, name) or self.find(each)), root.target)
        return store.find(first, name) or store.find(root.target, name)

    def convert(self, root: Root, name: str, size: int) -> Path:
        """Convert the original files, or the arrays of full size, to arrays of this ``size``; returns their folder."""
        found = self.require(root)
        arrays, names = store.read(found) if found.name == self.name else self.read_original(found.parent)
        if size != self.size:
            arrays = arrays | {key: shrink(arrays[key], size) for key in ("x_train", "x_test")}
        return save(root.target, name, arrays, names["classes"], names.get("domains", ()))


def save(
    folder: Path, name: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str], domains: Sequence[str] = ()
) -> Path:
    """Store images with the mean and standard deviation of each channel in the training part, in units of 255."""
    mean, std = moments(arrays["x_train"])
    metadata = {"classes": list(classes), "domains": list(domains), "mean": mean, "std": std}
    return store.write(folder, name, arrays, metadata)


def shrink(x: np.ndarray, size: int) -> np.ndarray:
    """Shrink images uint8 (N, C, H, W) to (N, C, size, size * W / H) by averaging square blocks of pixels."""
    n, channels, height, width = x.shape
    block = height // size
    small = np.empty((n, channels, size, width // block), np.uint8)
    for start in range(0, n, CHUNK):
        part = x[start : start + CHUNK].reshape(-1, channels, size, block, width // block, block)
        small[start : start + CHUNK] = np.round(part.mean(axis=(3, 5), dtype=np.float32))
    return small


def moments(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Compute mean and std of each channel of uint8 (N, C, H, W), exactly: from the counts of the 256 values."""
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
