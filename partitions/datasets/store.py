"""Converted data on disk: a folder of ``.npy`` files that every process of the machine maps instead of copying."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from partitions.errors import DataError

ABOUT = "about.json"  # written last, so a folder that has it is whole


def folder(place: Path, name: str) -> Path:
    return place / "arrays" / name


def holds(place: Path, name: str) -> bool:
    return (folder(place, name) / ABOUT).is_file()


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, mapped read-only, and the facts written beside them.

    Raises:
        DataError: a file is torn, or not what it should be.
    """
    arrays = {}
    try:
        for file in sorted(path.glob("*.npy")):
            arrays[file.stem] = np.load(file, mmap_mode="r")
        return arrays, json.loads((file := path / ABOUT).read_text())
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{file} cannot be read ({str(error).splitlines()[0]}): delete {path}, and fetch or import the data again"
        ) from error


def write(place: Path, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Path:
    """Writes the folder of ``name`` in ``place``, all or nothing."""
    with arriving(folder(place, name)) as new:
        for key, array in arrays.items():
            np.save(new / f"{key}.npy", array)
        (new / ABOUT).write_text(json.dumps(about))
    return folder(place, name)


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``path`` in one rename when the block ends well, and vanishes when it does not.

    If ``path`` exists by then, another process was faster with the same content and its copy stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise DataError(f"cannot write data to {path.parent}: {error.strerror}") from error
    try:
        scratch.chmod(0o755)  # mkdtemp is private; other users' processes may share this root
        yield scratch
        try:
            scratch.replace(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
