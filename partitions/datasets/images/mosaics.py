"""CIFAR as mosaics: zips of WebP or AVIF sheets, each with 25 rows x 40 columns of 32 x 32 pixel images."""

import csv
import io
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from partitions.errors import DataError, one_line

ROWS, COLUMNS, SIDE = 25, 40, 32


def read(files: list[Path]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays x_* uint8 (N, 3, 32, 32) and y_* int64 (N,), and the classes, from all zips of one data set.

    One zip contains ``train.csv`` and ``test.csv`` (columns index, label, class), in the order of the images.
    """
    try:
        with ExitStack() as stack:
            return assemble([stack.enter_context(zipfile.ZipFile(file)) for file in files])
    except DataError:
        raise
    except Exception as error:  # damaged zips, tables and pictures raise errors of many types
        raise DataError(f"cannot read {', '.join(map(str, files))} ({one_line(error)}); download them again") from error


def assemble(archives: list[zipfile.ZipFile]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays and classes from open zips."""
    arrays: dict[str, np.ndarray] = {}
    names: dict[int, str] = {}
    for split in ("train", "test"):
        rows = table(archives, f"{split}.csv")
        sheets = sorted(
            (name, k) for k, z in enumerate(archives) for name in z.namelist() if name.startswith(split + "/")
        )
        x = np.empty((len(sheets) * ROWS * COLUMNS, 3, SIDE, SIDE), np.uint8)
        if len(x) != len(rows):
            raise DataError(f"the zips hold {len(x)} of {len(rows)} {split} images: name all zips of the data set")
        for block, (name, k) in zip(x.reshape(len(sheets), -1, 3, SIDE, SIDE), sheets, strict=True):
            block[:] = cut(archives[k].read(name))
        arrays |= {f"x_{split}": x, f"y_{split}": np.array([int(row["label"]) for row in rows], np.int64)}
        names |= {int(row["label"]): row["class"] for row in rows}
    return arrays, [names[label] for label in sorted(names)]


def table(archives: list[zipfile.ZipFile], name: str) -> list[dict[str, str]]:
    """Read the CSV called ``name`` from the zip that contains it."""
    for archive in archives:
        if name in archive.namelist():
            return list(csv.DictReader(io.TextIOWrapper(archive.open(name))))
    raise DataError(f"no {name} in {', '.join(str(each.filename) for each in archives)}: name all zips of the data set")


def cut(sheet: bytes) -> np.ndarray:
    """Decode a sheet and cut it into images uint8 (1000, 3, 32, 32), row by row."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    tiles = pixels.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(-1, 3, SIDE, SIDE)
