"""Data of one's own, in the cloud and on every machine that is a device: a folder of ``.npz`` files and its classes.

    classes.txt   the classes, one a line; the same lines everywhere, since a class is known by its line
    *.npz         x: float32 (n, ...) ready for a network, or uint8 (n, C, H, W) pixels; y: integers (n,), lines from 0
    reader.py     instead of .npz files: a function ``read(folder)`` that returns such x and y, from whatever is there

Samples are in the order of their arrival: files by name, so name them by the time, and rows as they lie. Every fifth
one is for scoring. Write a new file under another suffix and rename it once it is whole: it may be read at any moment.
"""

import runpy
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets.source import Source
from partitions.errors import DataError
from partitions.root import Root

HELD_OUT = 5  # of so many samples one is for scoring


class Folder(Source):
    name = "folder"

    def find(self, place: Path) -> Path | None:
        return place if (place / "classes.txt").is_file() else None

    def remedy(self) -> str:
        return "make a folder with classes.txt and .npz files (docs/deploy.md), and name it as data-root"

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """All samples that are there now.

        Raises:
            DataError: nothing is, or what is there is damaged or does not fit together; with the file's name.
        """
        self.refuse_size(image_size)
        folder = self.need(root)
        classes = tuple(line.strip() for line in (folder / "classes.txt").read_text().splitlines() if line.strip())
        own = folder / "reader.py"
        x, y = _checked(own, *runpy.run_path(str(own))["read"](folder)) if own.is_file() else _files(folder)
        if len(y) < HELD_OUT:
            raise DataError(f"{folder} holds {len(y)} samples: there must be {HELD_OUT}, of which one is for scoring")
        if y.min() < 0 or y.max() >= len(classes):
            raise DataError(
                f"{folder}: y runs from {y.min()} to {y.max()}, classes.txt has lines 0 to {len(classes) - 1}"
            )
        test = np.arange(len(y)) % HELD_OUT == HELD_OUT - 1
        return Dataset(self.name, x[~test], y[~test], x[test], y[test], classes)


def _files(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of all ``.npz`` files, in the order of their names."""
    parts = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                parts.append(_checked(path, file["x"], file["y"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} is damaged or lacks x or y ({error}): mend it or move it away") from error
        if parts[0][0].shape[1:] != parts[-1][0].shape[1:] or parts[0][0].dtype != parts[-1][0].dtype:
            raise DataError(f"{path}: x is not of the shape and type of the files before it: move it away")
    if not parts:
        raise DataError(f"{folder} has classes.txt but no .npz file yet")
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _checked(path: Path, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) as a `Dataset` has them.

    Raises:
        DataError: they are of another make.
    """
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: x {x.shape} and y {y.shape} {y.dtype} are not n samples and n integers: move it away")
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"{path}: x holds values that are not finite: move it away")
    return x, y.astype(np.int64)
