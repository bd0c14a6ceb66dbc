"""CIFAR-10 and CIFAR-100."""

from pathlib import Path

from partitions.datasets.archives import place_folder
from partitions.datasets.images import mosaics
from partitions.datasets.images.arrays import save
from partitions.datasets.images.vision import Vision
from partitions.errors import DataError


class Cifar(Vision):
    """Also takes the mosaic archives of ``mosaics.py``, which skip torchvision's layout."""

    def unpack(self, files: list[Path], place: Path) -> Path:
        """``files``: torchvision's tar.gz or unpacked folder, or all the mosaic zips of the set."""
        if all(file.suffix == ".zip" for file in files):
            arrays, classes = mosaics.read(files)
            return save(place, self.name, arrays, classes)
        if len(files) != 1:
            raise DataError(f"{self.name} comes from one .tar.gz or folder, or from its mosaic .zip files")
        return place_folder(files[0], self.folder, place)
