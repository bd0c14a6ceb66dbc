"""The user's data: a folder of ``.npz`` files and a list of classes, on the server and on every device."""

import runpy
import sys
from pathlib import Path

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets.source import Source
from partitions.datasets.text.reading import TextFile
from partitions.errors import DataError, one_line
from partitions.root import Root

TEST_EVERY = 5  # one of this many samples is for the test
MOST_CHANNELS = 4  # of pictures


class Folder(Source):
    """Read the user's data, in this format:

    - ``classes.txt``: one class per line. Use the same lines on every machine, because labels are line numbers.
    - ``*.npz``: x is float32 (n, ...) ready for a network, or uint8 (n, C, H, W) pixels. y is integers (n,), the
      numbers of lines, from 0.
    - ``reader.py``, instead of .npz files: a function ``read(folder)`` that returns x and y in the same form.

    Samples are in the order of arrival: by file name, so use the time as the name, then by row. Every fifth sample is
    for the test. Any process may read the folder at any moment, so write a new file under another suffix and rename
    it when it is complete.
    """

    name = "folder"

    def find(self, folder: Path) -> Path | None:
        return folder if (folder / "classes.txt").is_file() else None

    def how_to_obtain(self) -> str:
        return "make a folder with classes.txt and .npz files (docs/deploy.md), and set data.root to it"

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """Load all samples that are there now.

        Raises:
            DataError: there are no samples, or a file is damaged or does not fit the others.
        """
        self.reject_image_size(image_size)
        folder = self.require(root)
        classes, reader = _classes(folder / "classes.txt"), folder / "reader.py"
        x, y = _checked(reader, *_read(reader)) if reader.is_file() else _files(folder)
        if len(y) < TEST_EVERY:
            raise DataError(f"{folder} holds {len(y)} samples: add some, because it needs at least {TEST_EVERY}")
        if y.min() < 0 or y.max() >= len(classes):
            raise DataError(
                f"{folder}: y is {y.min()} to {y.max()}, and classes.txt has lines 0 to {len(classes) - 1}: correct y"
            )
        test = np.arange(len(y)) % TEST_EVERY == TEST_EVERY - 1
        return Dataset(self.name, x[~test], y[~test], x[test], y[test], classes)


def _classes(path: Path) -> tuple[str, ...]:
    """Return the lines of ``classes.txt``; a label is the number of a line, so none in between may be blank."""
    names = [line.strip() for line in TextFile(path).text().rstrip().split("\n")]
    if "" in names:
        raise DataError(f"{path}, line {names.index('') + 1} is blank: write one class per line")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} names the class '{twice}' twice: write each class once")
    return tuple(names)


def _read(reader: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``read(folder)`` in the user's ``reader.py`` returns; it may import files beside it."""
    sys.path.insert(0, str(reader.parent))
    try:
        x, y = runpy.run_path(str(reader))["read"](reader.parent)
        return np.asarray(x), np.asarray(y)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        said = f"{type(error).__name__}: {one_line(error)}"
        what = "has no function read(folder)" if error.args == ("read",) else said
        raise DataError(f"{reader}: {what}; it must return x and y (docs/deploy.md)") from error
    finally:
        sys.path.remove(str(reader.parent))


def _files(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of all ``.npz`` files, in the order of their names."""
    parts = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                x, y = file["x"], file["y"]
        except Exception as error:  # numpy, zipfile and the decompressors share no error for wrong bytes
            what = f"{path} is damaged or lacks x or y ({one_line(error)})"
            raise DataError(f"{what}: repair it or move it away") from error
        parts.append(_checked(path, x, y))
        if parts[0][0].shape[1:] != parts[-1][0].shape[1:] or parts[0][0].dtype != parts[-1][0].dtype:
            raise DataError(f"{path}: x has another shape or type than the files before it: move it away")
    if not parts:
        raise DataError(f"{folder} has classes.txt but no .npz file yet; add one (docs/deploy.md)")
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _checked(path: Path, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y in the types of a `Dataset`; DataError if they have another form."""
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: x {x.shape} and y {y.shape} {y.dtype} are not n samples and n integers: move it away")
    if x.dtype.kind not in "fiub" or 0 in x.shape[1:]:
        raise DataError(f"{path}: x {x.shape} {x.dtype} holds no numbers: give float32, or uint8 pixels")
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"{path}: x contains values that are not finite: move it away")
    elif x.ndim != 4:
        raise DataError(f"{path}: x {x.shape} is uint8, but pixels are (n, C, H, W); give other numbers as float32")
    elif x.shape[1] > MOST_CHANNELS >= x.shape[3]:
        raise DataError(f"{path}: x {x.shape} has its channels last; give (n, C, H, W)")
    return x, y.astype(np.int64)
