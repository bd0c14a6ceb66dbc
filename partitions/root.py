"""Folders where data sets are searched for and written to."""

import os
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from partitions.errors import DataError

ENVIRONMENT = "DRIFTFED_DATA"


@dataclass(frozen=True)
class Root:
    """Folders to search, in this order, and the folder that downloads, imports and caches are written to."""

    folders: tuple[Path, ...]
    target: Path

    @classmethod
    def at(cls, explicit: "str | Path | Root | None" = None, create: bool = False) -> "Root":
        """Return the folders to search, given the one that the user named.

        The order is: ``explicit``, $DRIFTFED_DATA, the installed share folder, the checkout's ``data/``, the cache
        folder. Data are written to the first of the two that the user named, or else to the cache folder.

        Args:
            explicit: the user's folder (run-config key ``data.root``), or None. A `Root` is returned unchanged.
            create: whether to create the folder that data are written to.

        Raises:
            DataError: a named folder does not exist, most likely because of a typing error, or cannot be created.
        """
        if isinstance(explicit, Root):
            return explicit
        chosen = [(str(explicit), "the data root (data.root or --root)")] if explicit else []
        chosen += [(os.environ[ENVIRONMENT], ENVIRONMENT)] if os.environ.get(ENVIRONMENT) else []
        named = tuple(absolute(text) for text, _ in chosen)
        for folder, (_, origin) in zip(named, chosen, strict=True):
            if create and folder == named[0]:
                create_folder(folder)
            elif not folder.is_dir():
                raise DataError(f"{origin} is {folder}, which is not an existing folder; create it or correct the name")
        found = (*named, installed_folder(), checkout_folder(), cache_folder())
        return cls(found, named[0] if named else cache_folder())


def absolute(path: str | Path) -> Path:
    """Return an absolute path, which need not exist; DataError if there can be none of this name."""
    try:
        found = Path(path).expanduser().absolute()
        found.exists()  # an error if the name is too long
        return found
    except (RuntimeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such user"
        raise DataError(f"'{path}' cannot be opened ({reason}); correct the name") from error


def create_folder(folder: Path) -> None:
    """Create ``folder`` and its parents if they do not exist; DataError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {folder} ({error.strerror}); name a folder that you may write to") from error


def probe(folder: Path, what: str) -> None:
    """Write a file to ``folder`` and remove it.

    Args:
        what: is kept there, for the message.

    Raises:
        DataError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}), and {what}") from error


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/driftfed``, by default ``~/.cache/driftfed``."""
    return _cache_folder(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


@lru_cache(maxsize=1)  # devices ask for it with every message
def _cache_folder(chosen: str | None, _home: str | None) -> Path:
    return Path(chosen or Path.home() / ".cache") / "driftfed"


def installed_folder() -> Path:
    """Return the folder where pip installs the data sets that the wheel contains."""
    return Path(sys.prefix) / "share" / "driftfed"


def checkout_folder() -> Path:
    """Return the ``data`` folder of a clone of the project; an installed package does not have it."""
    return Path(__file__).resolve().parents[1] / "data"
