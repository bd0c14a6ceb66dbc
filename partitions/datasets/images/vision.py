"""Image data sets that torchvision downloads, checks and reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partitions.datasets.download import download_with
from partitions.datasets.images.arrays import Images
from partitions.errors import DataError


@dataclass(frozen=True)
class Vision(Images):
    """Read a data set with torchvision's class ``vision``, which creates ``subfolder`` in its root."""

    vision: str

    def fetch(self, folder: Path) -> Path:
        import torchvision.datasets as vision  # importing takes seconds, and converted data do not need it

        library = getattr(vision, self.vision)
        return download_with(lambda root: library(root, download=True), self.name, self.subfolder, folder)

    def read_original(self, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        import torchvision.datasets as vision

        arrays, original = {}, folder / self.subfolder
        for split in ("train", "test"):
            try:
                part = getattr(vision, self.vision)(str(folder), train=split == "train")
            except RuntimeError as error:  # a file is missing or its checksum is wrong
                raise DataError(f"{original} is damaged ({error}): remove it and {self.how_to_obtain()}") from error
            x = np.asarray(part.data)
            arrays[f"x_{split}"] = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x[:, None]
            arrays[f"y_{split}"] = np.asarray(part.targets, np.int64)
        return arrays, {"classes": part.classes}
