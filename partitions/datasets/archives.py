"""Extract a folder from a folder, a tar or a zip, completely or not at all."""

import shutil
import tarfile
import zipfile
from pathlib import Path

from partitions.datasets import store
from partitions.errors import DataError, one_line


def extract_folder(source: Path, wanted: str, target: Path) -> Path:
    """Copy the folder named ``wanted`` out of ``source`` to ``target / wanted``.

    Args:
        source: a folder, which may be the wanted one itself, or an archive. Zips inside an archive are extracted too,
            because the UCI archive is packed twice.

    Raises:
        DataError: ``source`` is not a readable archive or does not contain the folder.
    """
    with store.atomic_folder(target / wanted) as new:
        scratch = new / ".unpacked"
        for candidate in (source, *unpack(source, scratch)):
            if found := find_folder(candidate, wanted):
                for item in found.iterdir():
                    move = shutil.move if scratch in found.parents else copy
                    move(str(item), str(new / item.name))
                break
        else:
            raise DataError(f"{source} holds no folder '{wanted}'; name an archive or a folder that contains it")
        shutil.rmtree(scratch, ignore_errors=True)
    return target / wanted


def copy(source: str, target: str) -> None:
    """Copy a file, or a folder with everything in it."""
    (shutil.copytree if Path(source).is_dir() else shutil.copy2)(source, target)


def unpack(source: Path, scratch: Path) -> list[Path]:
    """Extract an archive, and zips inside it, to ``scratch``.

    Returns:
        The folders to search in; none if ``source`` is a folder.

    Raises:
        DataError: ``source`` is a file, but not a readable archive.
    """
    if source.is_dir():
        return []
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                archive.extractall(scratch)
        else:
            with tarfile.open(source) as archive:
                archive.extractall(scratch, filter="data")  # refuses paths that lead outside
        for inner in sorted(scratch.rglob("*.zip")):
            with zipfile.ZipFile(inner) as archive:
                archive.extractall(scratch)
    except Exception as error:  # archives and their decompressors share no error for wrong bytes
        what = f"{source} is not a readable zip or tar archive ({one_line(error)})"
        raise DataError(f"{what}; download it again") from error
    return [scratch]


def find_folder(folder: Path, wanted: str) -> Path | None:
    """Return the folder named ``wanted``, which is ``folder`` itself or inside it; None if there is none."""
    if folder.is_dir() and folder.name == wanted:
        return folder
    return next((path for path in folder.rglob(wanted) if path.is_dir()), None) if folder.is_dir() else None
