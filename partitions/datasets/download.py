"""Downloads that leave either the whole data set or nothing."""

import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

from partitions.datasets import store
from partitions.errors import DataError


def download_with(library: Callable[[str], object], name: str, wanted: str, target: Path) -> Path:
    """Let a library download a data set, and move it to ``target / wanted``.

    Args:
        library: downloads and checks the files in the folder whose path it is given.
        name: the data set's name, for the error message.
        wanted: the folder that the library creates there.

    Raises:
        DataError: the download failed.
    """
    with store.atomic_folder(target / wanted) as new:
        scratch = new / ".download"
        scratch.mkdir()
        try:
            library(str(scratch))
        except (OSError, RuntimeError) as error:  # the libraries raise either if there is no network
            reason = " ".join(str(error).split())  # torchvision's message has several lines
            raise DataError(f"could not download {name}, is there a network? ({reason})") from error
        for item in (scratch / wanted).iterdir():
            shutil.move(str(item), str(new / item.name))
        shutil.rmtree(scratch)
    return target / wanted


def download(url: str, target: Path) -> None:
    """Write the content of ``url`` to the file ``target``; DataError if the download fails."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply, target.open("wb") as file:
            shutil.copyfileobj(reply, file)
    except OSError as error:
        raise DataError(f"could not download {url}, is there a network? ({error})") from error
