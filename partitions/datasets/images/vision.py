"""Picture sets that torchvision downloads, checks and reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partitions.datasets.download import through
from partitions.datasets.images.arrays import Images
from partitions.errors import DataError


@dataclass(frozen=True)
class Vision(Images):
    """``folder`` is what torchvision's class ``vision`` makes in its root."""

    vision: str

    def fetch(self, place: Path) -> Path:
        import torchvision.datasets as vision  # costs seconds; not needed once converted

        return through(lambda root: getattr(vision, self.vision)(root, download=True), self.name, self.folder, place)

    def original(self, place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        import torchvision.datasets as vision

        arrays = {}
        for split in ("train", "test"):
            try:
                part = getattr(vision, self.vision)(str(place), train=split == "train")
            except RuntimeError as error:  # a file is missing or its checksum is wrong
                raise DataError(f"{place / self.folder} is damaged ({error}): remove it and {self.remedy()}") from error
            x = np.asarray(part.data)
            arrays[f"x_{split}"] = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x[:, None]
            arrays[f"y_{split}"] = np.asarray(part.targets, np.int64)
        return arrays, {"classes": part.classes}
