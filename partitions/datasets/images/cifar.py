"""CIFAR-10 and CIFAR-100."""

from pathlib import Path

from partitions.datasets.archives import extract_folder
from partitions.datasets.images import mosaics
from partitions.datasets.images.arrays import save
from partitions.datasets.images.vision import Vision
from partitions.errors import DataError


class Cifar(Vision):
    """Read torchvision's layout, or import the archives of `partitions.datasets.images.mosaics`."""

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import torchvision's tar.gz or the folder in it, or all mosaic zips of the data set."""
        if all(file.suffix == ".zip" for file in files):
            arrays, classes = mosaics.read(files)
            return save(folder, self.name, arrays, classes)
        if len(files) != 1:
            raise DataError(f"{self.name} comes from one .tar.gz or folder, or from its mosaic .zip files; name those")
        return extract_folder(files[0], self.subfolder, folder)
