"""Downloads that leave either the whole data set or nothing."""

import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

from partitions.datasets import store
from partitions.errors import DataError


def through(obtain: Callable[[str], object], name: str, wanted: str, place: Path) -> Path:
    """Lets a library's ``obtain(root)`` download and check its files; its folder ``wanted`` ends up in ``place``."""
    with store.arriving(place / wanted) as new:
        scratch = new / ".download"
        scratch.mkdir()
        try:
            obtain(str(scratch))
        except (OSError, RuntimeError) as error:  # a dead network shows as either
            reason = " ".join(str(error).split())  # torchvision's runs over lines
            raise DataError(f"could not download {name}, is there a network? ({reason})") from error
        for item in (scratch / wanted).iterdir():
            shutil.move(str(item), str(new / item.name))
        shutil.rmtree(scratch)
    return place / wanted


def download(url: str, target: Path) -> None:
    """Writes what ``url`` serves to ``target``. DataError if it cannot be had."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply, target.open("wb") as file:
            shutil.copyfileobj(reply, file)
    except OSError as error:
        raise DataError(f"could not download {url}, is there a network? ({error})") from error
