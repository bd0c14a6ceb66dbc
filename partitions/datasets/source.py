"""The base classes of data sets."""

from abc import ABC, abstractmethod
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

from partitions.components import Section
from partitions.dataset import Dataset
from partitions.errors import DataError
from partitions.root import Root


class Source(ABC):
    """Find, read and obtain one data set.

    Files are searched for in ``Root.folders`` and written to ``Root.target``. A subclass sets ``name``, which error
    messages use, and defines ``find`` and ``load``; ``fetch`` and ``import_files`` are optional. ``Options`` are
    run-config keys ``<data set>.<option>``, whose values are `options`.

    Class attributes:
        of_machine: in deployment, a machine that has these files is a device with data of its own.
    """

    name: str
    Options: ClassVar[type[Section]] = Section
    of_machine: ClassVar[bool] = False
    _options: Section | None = None

    @property
    def options(self) -> Any:
        """The values of ``Options``."""
        return self._options or self.Options()

    def with_options(self, options: Section) -> Self:
        """Return this source with other options."""
        changed = copy(self)
        object.__setattr__(changed, "_options", options)  # a source may be frozen
        return changed

    @abstractmethod
    def find(self, folder: Path) -> Path | None:
        """Return the path of the data set in ``folder``, in any layout that ``load`` reads; None if it is not there."""

    @abstractmethod
    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """Read the data set.

        Args:
            image_size: rows of pixels to which images are shrunk; 0: full size.

        Raises:
            DataError: the data set is in none of the folders, or damaged.
        """

    def fetch(self, folder: Path) -> Path:
        """Download the data set to ``folder`` and return its path."""
        raise DataError(f"{self.name} cannot be downloaded: {self.how_to_obtain()}")

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Copy the data set from local ``files`` to ``folder`` and return its path."""
        raise DataError(f"{self.name} cannot be imported: {self.how_to_obtain()}")

    def how_to_obtain(self) -> str:
        """Return what to do if the data set is missing: a command, if there is one."""
        if type(self).fetch is not Source.fetch:
            return f"run `python -m experiments data fetch {self.name}`"
        if type(self).import_files is not Source.import_files:
            return f"run `python -m experiments data import {self.name} FILES`"
        return "put its files into the folder that DRIFTFED_DATA or data.root names"

    def search(self, root: Root) -> Path | None:
        """Return the path of the data set in the first folder that has it; None if no folder has it."""
        return next((found for folder in root.folders if (found := self.find(folder))), None)

    def require(self, root: Root) -> Path:
        """Return the path of the data set in the first folder that has it; DataError if no folder has it."""
        if found := self.search(root):
            return found
        searched = ", ".join(map(str, root.folders))
        raise DataError(f"{self.name} is not on this machine (searched {searched}): {self.how_to_obtain()}")

    def reject_image_size(self, image_size: int) -> None:
        """Raise ValueError if an image size is given for a data set without images."""
        if image_size:
            raise ValueError(f"{self.name} holds no images, so data.image-size must be 0, not {image_size}")


class GeneratedSource(Source):
    """A data set that is generated whenever it is loaded."""

    def find(self, folder: Path) -> Path | None:
        return None

    def how_to_obtain(self) -> str:
        return "it is generated when it is used and needs no files"


class ShippedSource(Source):
    """A data set that is part of the project, in one file."""

    file: str  # path in the data folder

    def find(self, folder: Path) -> Path | None:
        path = folder / self.file
        return path if path.is_file() else None

    def how_to_obtain(self) -> str:
        return "it ships with the project, so reinstall it with `pip install .`"
