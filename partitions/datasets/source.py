"""What every data set can do; one subclass or instance per set."""

from abc import ABC, abstractmethod
from pathlib import Path

from partitions.dataset import Dataset
from partitions.errors import DataError
from partitions.root import Root


class Source(ABC):
    """Finds, reads and obtains one data set. Files are looked for in ``Root.places`` and written to ``Root.target``."""

    name: str

    @abstractmethod
    def find(self, place: Path) -> Path | None:
        """Where in ``place`` the set lies, in any layout that ``load`` reads; None if it does not."""

    @abstractmethod
    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """The set; ``image_size`` in pixels (0: as it is). DataError if it is in none of the places."""

    def fetch(self, place: Path) -> Path:
        """Downloads the set into ``place``."""
        raise DataError(f"{self.name} cannot be downloaded: {self.remedy()}")

    def unpack(self, files: list[Path], place: Path) -> Path:
        """Takes the set from local files into ``place``."""
        raise DataError(f"{self.name} cannot be imported")

    def remedy(self) -> str:
        """What to do when the set is missing: the command that brings it, if there is one."""
        if type(self).fetch is not Source.fetch:
            return f"run `python -m experiments data fetch {self.name}`"
        if type(self).unpack is not Source.unpack:
            return f"run `python -m experiments data import {self.name} FILES`"
        return "put its files into the folder that DRIFTFED_DATA or data-root names"

    def seek(self, root: Root) -> Path | None:
        return next((found for place in root.places if (found := self.find(place))), None)

    def need(self, root: Root) -> Path:
        """Where the first place that has the set keeps it. DataError names every place searched."""
        if found := self.seek(root):
            return found
        searched = ", ".join(map(str, root.places))
        raise DataError(f"{self.name} is not on this machine (searched {searched}): {self.remedy()}")

    def refuse_size(self, image_size: int) -> None:
        if image_size:
            raise ValueError(f"{self.name} holds no images, so image size must be 0, not {image_size}")


class MadeUp(Source):
    """A data set that is drawn when it is loaded."""

    def find(self, place: Path) -> Path | None:
        return None

    def remedy(self) -> str:
        return "it is made up when it is used and needs no files"


class Shipped(Source):
    """A data set that comes with the project, in one file."""

    file: str  # below the data folder

    def find(self, place: Path) -> Path | None:
        path = place / self.file
        return path if path.is_file() else None

    def remedy(self) -> str:
        return "it ships with the project, so reinstall it with `pip install .`"

    def fetch(self, place: Path) -> Path:
        raise DataError(f"{self.name} is not downloaded: {self.remedy()}")
