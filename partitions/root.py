"""Where data live: decided here once for every data set."""

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from partitions.errors import DataError

ENVIRONMENT = "DRIFTFED_DATA"


@dataclass(frozen=True)
class Root:
    """Places in search order, and the one that downloads, imports and caches are written to."""

    places: tuple[Path, ...]
    target: Path

    @classmethod
    def at(cls, explicit: "str | Path | Root | None" = None, create: bool = False) -> "Root":
        """Search order: ``explicit``, $DRIFTFED_DATA, the installed share folder, the checkout's ``data/``, the cache.

        Writes go to the first of the two that the user named, otherwise to the user's cache. With ``create`` that place
        is made if it is new; otherwise a named place that does not exist is a DataError: most likely a typing error.
        """
        if isinstance(explicit, Root):
            return explicit
        chosen = [(str(explicit), "the data root")] if explicit else []
        chosen += [(os.environ[ENVIRONMENT], ENVIRONMENT)] if os.environ.get(ENVIRONMENT) else []
        named = tuple(Path(text).expanduser().absolute() for text, _ in chosen)
        for place, (_, origin) in zip(named, chosen, strict=True):
            if create and place == named[0]:
                make(place)
            elif not place.is_dir():
                raise DataError(f"{origin} is {place}, which is not an existing folder")
        return cls((*named, installed(), checkout(), cache_folder()), named[0] if named else cache_folder())


def make(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {place}: {error.strerror}") from error


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/driftfed``, or that below ``~/.cache``."""
    return _cache_folder(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


@lru_cache(maxsize=1)  # devices ask for it with every message
def _cache_folder(chosen: str | None, _home: str | None) -> Path:
    return Path(chosen or Path.home() / ".cache") / "driftfed"


def installed() -> Path:
    """Where pip puts what the wheel ships as shared data."""
    return Path(sys.prefix) / "share" / "driftfed"


def checkout() -> Path:
    """The project folder's own data: present in a clone, not in an installed package."""
    return Path(__file__).resolve().parents[1] / "data"
