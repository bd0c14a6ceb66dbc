"""Files of the user's data: one for each device, ``device-0.csv`` and so on, and one of the cloud, ``server.csv``."""

import csv
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import columns, store
from partitions.datasets.columns import Columns, Part, assemble, picture, read_table
from partitions.datasets.text.reading import TextFile
from partitions.datasets.text.texts import pack, unpack
from partitions.errors import DataError, missing_package, one_line
from partitions.root import cache_folder

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".parquet", ".csv", ".jsonl")
SUFFIXES = (*TABLES, ".npz")
SERVER = "server"
NAME = re.compile(rf"(?:device-([0-9]+)|{SERVER})")
UNFINISHED = (".part", ".tmp")  # of files that are still written
MOST_CHANNELS = 4  # of pictures


def find_files(folder: Path) -> dict[str, Path]:
    """Return the files of devices, in the order of their numbers, then that of the server, by name without suffix.

    A folder of pictures counts as a file.

    Raises:
        DataError: a device has two files or one of another kind, a number is missing, or a file beside them has another
            name.
    """
    found: dict[tuple[float, str], Path] = {}
    odd, unread = [], []
    for path in sorted(folder.iterdir()):
        readable = not path.suffix if path.is_dir() else path.suffix in SUFFIXES
        if not (match := NAME.fullmatch(path.name.partition(".")[0])) or path.suffix in UNFINISHED:
            odd += [path] if readable and path.suffix and not path.name.startswith(".") else []
            continue
        if not readable or path.name != f"{match[0]}{path.suffix}":
            unread.append(path)
            continue
        number = float(match[1] or "inf")
        name = f"device-{int(match[1])}" if match[1] else SERVER
        if (number, name) in found:
            raise DataError(f"{found[number, name]} and {path} both belong to {name}: keep one of them")
        found[number, name] = path
    if found and unread:
        raise DataError(f"{unread[0]} cannot be read: give {', '.join(SUFFIXES)}, or a folder of pictures")
    if found and odd:
        raise DataError(f"{odd[0]} is neither of a device nor of the server: call it device-<number>{odd[0].suffix}")
    devices = [number for number, _ in sorted(found) if number < float("inf")]
    if len(devices) > 1 and devices[-1] != len(devices) - 1:
        gap = next(number for number in range(len(devices)) if number not in {*devices})
        raise DataError(f"{folder} has no file of device-{gap}: number the files of devices from 0, without gaps")
    return {name: path for (_, name), path in sorted(found.items())}


def load_files(name: str, files: dict[str, Path], options: Columns, classes: Sequence[str], image_size: int) -> Dataset:
    """Load the files of devices, and of the server, as one data set; a domain is a device.

    What several files hold is converted once, to arrays in the cache folder that every process maps.

    Raises:
        DataError: a file is damaged, or does not fit the others.
    """
    if len(files) == 1 and not classes:
        (path,) = files.values()
        raise DataError(f"{path.parent} has one file and no classes.txt: write all devices' classes, one per line")
    _refuse_unread(options, files, image_size)
    if len(files) == 1:  # of a real machine: it may change
        return _read(name, files, options, classes, image_size)
    kept = f"{name}-{_address(files, options, classes, image_size)}"
    if not (folder := store.find(cache_folder(), kept)):
        data = _read(name, files, options, classes, image_size)
        try:
            folder = store.write(cache_folder(), kept, *_arrays(data))
        except DataError:  # the cache folder cannot be written
            return data
    return _dataset(name, *store.read(folder))


def _read(name: str, files: dict[str, Path], options: Columns, classes: Sequence[str], image_size: int) -> Dataset:
    parts = [read_file(path, options, image_size) for path in files.values()]
    server = SERVER if SERVER in files and len(files) > 1 else ""
    domain = np.repeat(np.arange(len(parts)), [len(part.y) for part in parts])
    return assemble(name, parts, options, classes, tuple(files), domain, server=server)


def _refuse_unread(options: Columns, files: dict[str, Path], image_size: int) -> None:
    """Raise for an option that none of the files needs."""
    some, kinds = next(iter(files.values())), {path.suffix for path in files.values()}
    if not kinds & {*TABLES} and (odd := options.model_fields_set - {"test_fraction"}):
        raise DataError(f"folder.{min(odd)} is about columns of tables, and {some} has none: leave it out")
    if image_size and kinds <= {".npz", ".csv"}:
        raise ValueError(f"data.image-size = {image_size} shrinks pictures, and {some} holds none: set it to 0")


# One file


def read_file(path: Path, options: Columns, image_size: int = 0) -> Part:
    """Return the samples in a file, or in a folder of pictures.

    Raises:
        DataError: it is damaged, or has another form; names the file and, if one is wrong, the row.
    """
    if path.is_dir():
        return _pictures(path, image_size)
    if path.suffix == ".npz":
        return Part(str(path), *read_arrays(path))
    return read_table(READERS[path.suffix](path, options), options, str(path), image_size)


def _parquet(path: Path, options: Columns) -> "pd.DataFrame":
    try:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path).read(use_threads=False).to_pandas()
    except ModuleNotFoundError as error:
        raise DataError(f"{path} {missing_package(error) or one_line(error)}") from error
    except Exception as error:  # pyarrow has several kinds of errors for wrong bytes
        raise DataError(f"{path} cannot be read as parquet ({one_line(error)})") from error


def _csv(path: Path, options: Columns) -> "pd.DataFrame":
    import pandas as pd

    text = TextFile(path).text().rstrip("\r\n")
    try:
        header = next(csv.reader(io.StringIO(text)), [])
        if not header or len({*header}) < len(header):
            raise DataError(f"{path} needs a first line of column names, each of them once, not '{text[:40]}'")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a row with too many cells is only a warning
            return pd.read_csv(
                io.StringIO(text), index_col=False, dtype={options.label: str}, keep_default_na=False, na_values=[""],
                skip_blank_lines=False, low_memory=False,
            )  # fmt: skip
    except (ValueError, csv.Error, Warning) as error:
        raise DataError(f"{path} cannot be read as CSV ({one_line(error)})") from error


def _json_lines(path: Path, options: Columns) -> "pd.DataFrame":
    import pandas as pd

    rows = [row for _, row in TextFile(path).objects(f'{{"{options.label}": ..., ...}}')]
    return pd.DataFrame(rows)


READERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}


def _pictures(folder: Path, image_size: int) -> Part:
    """Read ``class/picture.png`` of a device's folder."""
    x, y = [], []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.parent.parent != folder:
            raise DataError(f"{path} is in no folder of a class: put pictures into {folder}/CLASS")
        x.append(picture(path, str(path), image_size))
        y.append(path.parent.name)
        if x[0].shape != x[-1].shape:
            raise DataError(f"{path} has shape {x[-1].shape}, pictures before it have {x[0].shape}: make them equal")
    if not x:
        raise DataError(f"{folder} has no pictures: each device needs samples")
    return Part(str(folder), np.stack(x), np.array(y, object))


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of an ``.npz`` file; DataError if it is damaged or has another form."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except Exception as error:  # numpy, zipfile and the decompressors share no error for wrong bytes
        what = f"{path} is damaged or lacks x or y ({one_line(error)})"
        raise DataError(f"{what}: repair it or move it away") from error
    return checked(path, x, y)


def checked(path: Path, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y in the types of a `Dataset`; DataError if they have another form."""
    x, y = np.asarray(x), np.asarray(y)
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: x {x.shape} and y {y.shape} {y.dtype} are not n samples and n integers: move it away")
    if y.dtype == np.uint64 and (y >= 2**63).any():
        raise DataError(f"{path}: y holds {y.max()}: labels must fit into int64")
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


# What is kept in the cache folder


def _address(files: dict[str, Path], options: Columns, classes: Sequence[str], image_size: int) -> str:
    """Return a hash of everything that decides the arrays: the files, the options and this code."""
    what = hashlib.blake2b(repr((options, tuple(classes), image_size)).encode(), digest_size=10)
    for module in (__file__, columns.__file__):
        what.update(Path(str(module)).read_bytes())
    for name, path in files.items():
        what.update(f"{name} {path.name} ".encode())
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                what.update(f"{file.relative_to(path.parent)} {len(content)} ".encode() + content)
    return what.hexdigest()


def _arrays(data: Dataset) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the names of a data set; text is packed."""
    fields = {key: value for key, value in vars(data).items() if value is not None}
    arrays = {key: value for key, value in fields.items() if isinstance(value, np.ndarray)}
    if data.text:
        for part in ("train", "test"):
            arrays |= {f"{key}_{part}": array for key, array in pack(arrays.pop(f"x_{part}").tolist()).items()}
    return arrays, {key: fields[key] for key in ("classes", "domains", "mean", "std")}


def _dataset(name: str, arrays: dict[str, np.ndarray], names: dict[str, Any]) -> Dataset:
    if "ends_train" in arrays:
        for part in ("train", "test"):
            arrays[f"x_{part}"] = unpack(arrays.pop(f"bytes_{part}"), arrays.pop(f"ends_{part}"))
    fields: dict[str, Any] = {**arrays, **{key: tuple(value) for key, value in names.items()}}
    return Dataset(name, **fields)
