"""Converted data on disk: folders of ``.npy`` files that every process of the machine maps instead of copying."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from partitions.errors import DataError, one_line

METADATA = "about.json"  # written last, so a folder that has it is complete


def folder(root: Path, name: str) -> Path:
    """Return the folder of the arrays called ``name``."""
    return root / "arrays" / name


def find(root: Path, name: str) -> Path | None:
    """Return the folder of the arrays called ``name`` if they are in ``root`` and complete, else None."""
    return path if ((path := folder(root, name)) / METADATA).is_file() else None


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays in a folder by name, mapped read-only, and their metadata.

    Raises:
        DataError: a file is incomplete or damaged.
    """
    arrays = {}
    try:
        for file in sorted(path.glob("*.npy")):
            arrays[file.stem] = np.load(file, mmap_mode="r")
        return arrays, json.loads((file := path / METADATA).read_text())
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{file} cannot be read ({one_line(error)}): delete {path}, and fetch or import the data again"
        ) from error


def write(root: Path, name: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Path:
    """Write arrays and metadata, completely or not at all, and return their folder."""
    with atomic_folder(folder(root, name)) as new:
        for key, array in arrays.items():
            np.save(new / f"{key}.npy", array)
        (new / METADATA).write_text(json.dumps(metadata))
    return folder(root, name)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that is renamed to ``path`` if the block succeeds, and deleted if it raises.

    If ``path`` exists by then, another process was faster with the same content, and its copy stays.

    Raises:
        DataError: the folder cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise DataError(f"cannot write to {path.parent} ({error.strerror}); set data.root to another folder") from error
    try:
        scratch.chmod(0o755)  # mkdtemp makes it private, but other users' processes may share this folder
        yield scratch
        try:
            scratch.replace(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
