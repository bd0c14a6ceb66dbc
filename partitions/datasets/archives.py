"""A folder taken out of a folder, a tar or a zip, put in place whole or not at all."""

import shutil
import tarfile
import zipfile
from pathlib import Path

from partitions.datasets import store
from partitions.errors import DataError


def place_folder(source: Path, wanted: str, place: Path) -> Path:
    """Puts the folder called ``wanted`` that lies in ``source`` (or is it) at ``place / wanted``.

    A zip inside the zip is opened too: the UCI archive is packed twice. DataError if ``wanted`` is not in there.
    """
    with store.arriving(place / wanted) as new:
        scratch = new / ".unpacked"
        for attempt in (source, *unpack(source, scratch)):
            if found := locate(attempt, wanted):
                for item in found.iterdir():
                    move = shutil.move if scratch in found.parents else copy
                    move(str(item), str(new / item.name))
                break
        else:
            raise DataError(f"{source} holds no folder '{wanted}'")
        shutil.rmtree(scratch, ignore_errors=True)
    return place / wanted


def copy(source: str, target: str) -> None:
    (shutil.copytree if Path(source).is_dir() else shutil.copy2)(source, target)


def unpack(source: Path, scratch: Path) -> list[Path]:
    """Unpacks an archive, and a zip found in it; returns the folders to look in. A folder needs no unpacking."""
    if source.is_dir():
        return []
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                archive.extractall(scratch)
        else:
            with tarfile.open(source) as archive:
                archive.extractall(scratch, filter="data")  # refuses paths that lead outside
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{source} is not a readable zip or tar archive: {error}") from error
    for inner in sorted(scratch.rglob("*.zip")):
        with zipfile.ZipFile(inner) as archive:
            archive.extractall(scratch)
    return [scratch]


def locate(folder: Path, wanted: str) -> Path | None:
    if folder.is_dir() and folder.name == wanted:
        return folder
    return next((path for path in folder.rglob(wanted) if path.is_dir()), None) if folder.is_dir() else None
