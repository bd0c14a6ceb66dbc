"""The user's data: a folder with a file for each device, or a machine's own folder of ``.npz`` files."""

import math
import runpy
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np

from partitions.components import Section
from partitions.dataset import Dataset
from partitions.datasets.columns import Columns, held_out
from partitions.datasets.device_files import checked, find_files, load_files, read_arrays
from partitions.datasets.source import Source
from partitions.datasets.text.reading import TextFile
from partitions.errors import DataError, one_line
from partitions.root import Root


class Folder(Source):
    """Read the user's data, in one of two formats.

    Files of devices, in simulation and on a real device (docs/bring-your-own.md):

    - ``device-0.parquet``, ``device-1.csv``, ``.jsonl``, ``.npz``, or a folder ``device-2`` of pictures: the samples of
      a device. ``server.*``: those of the cloud.
    - ``classes.txt``: one class per line. Without it, classes are the labels that occur; a machine that has only one of
      the files needs it.

    Samples of one machine, in the order of arrival (docs/deploy.md):

    - ``classes.txt``: one class per line. Use the same lines on every machine, because labels are line numbers.
    - ``*.npz``: x is float32 (n, ...) ready for a network, or uint8 (n, C, H, W) pixels. y is integers (n,), the
      numbers of lines, from 0.
    - ``reader.py``, instead of .npz files: a function ``read(folder)`` that returns x and y in the same form.

    They are in this order: by file name, so use the time as the name, then by row. Every fifth sample is for the test
    (``test-fraction``). Any process may read the folder at any moment, so write a new file under another suffix and
    rename it when it is complete.
    """

    name = "folder"
    of_machine = True
    Options: ClassVar[type[Section]] = Columns

    def find(self, folder: Path) -> Path | None:
        if not folder.is_dir():
            return None
        return folder if (folder / "classes.txt").is_file() or find_files(folder) else None

    def how_to_obtain(self) -> str:
        return (
            "make a folder with device-0.csv, device-1.csv and so on (docs/bring-your-own.md), or with classes.txt and "
            ".npz files (docs/deploy.md), and set data.root to it"
        )

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """Load all samples that are there now.

        Raises:
            DataError: there are no samples, or a file is damaged or does not fit the others.
        """
        folder, options = self.require(root), self.options
        names = folder / "classes.txt"
        classes = _classes(names) if names.is_file() else ()
        if files := find_files(folder):
            return load_files(self.name, files, options, classes, image_size)
        self.reject_image_size(image_size)
        if odd := options.model_fields_set - {"test_fraction"}:
            raise DataError(f"folder.{min(odd)} is about columns of tables, and {folder} has none: leave it out")
        reader, least = folder / "reader.py", math.ceil(1 / options.test_fraction)
        x, y = checked(reader, *_read(reader)) if reader.is_file() else _files(folder)
        if len(y) < least:
            raise DataError(f"{folder} holds {len(y)} samples: add some, because it needs at least {least}")
        if y.min() < 0 or y.max() >= len(classes):
            raise DataError(
                f"{folder}: y is {y.min()} to {y.max()}, and classes.txt has lines 0 to {len(classes) - 1}: correct y"
            )
        test = held_out(np.zeros(len(y), np.int64), np.zeros(len(y)), options.test_fraction)
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
        parts.append(read_arrays(path))
        if parts[0][0].shape[1:] != parts[-1][0].shape[1:] or parts[0][0].dtype != parts[-1][0].dtype:
            raise DataError(f"{path}: x has another shape or type than the files before it: move it away")
    if not parts:
        raise DataError(f"{folder} has classes.txt but no .npz file yet; add one (docs/deploy.md)")
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
