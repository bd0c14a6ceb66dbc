"""Fashion-MNIST: 28 x 28 grey images of clothes."""

import gzip
import shutil
from pathlib import Path

from partitions.datasets import store
from partitions.datasets.images.vision import Vision
from partitions.errors import DataError

UNSIGNED_BYTES = bytes([0, 0, 8])  # the first bytes of an idx file; the number of dimensions follows
FILES = {
    "train-images-idx3-ubyte": 3, "train-labels-idx1-ubyte": 1,
    "t10k-images-idx3-ubyte": 3, "t10k-labels-idx1-ubyte": 1,
}  # fmt: skip


class FashionMnist(Vision):
    """Read torchvision's layout."""

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import the four idx files, gzipped or not, or folders that contain them."""
        given = [f for file in files for f in (sorted(file.rglob("*ubyte*")) if file.is_dir() else [file])]
        by_name = {file.name.removesuffix(".gz"): file for file in given}
        if missing := [name for name in FILES if name not in by_name]:
            raise DataError(f"{self.name} also needs {', '.join(f'{name}.gz' for name in missing)}")
        with store.atomic_folder(folder / self.subfolder) as new:
            (new / "raw").mkdir()
            for name, dimensions in FILES.items():
                source = by_name[name]
                try:
                    opener = gzip.open if source.suffix == ".gz" else open
                    with opener(source, "rb") as packed, (new / "raw" / name).open("wb") as plain:
                        shutil.copyfileobj(packed, plain)
                except (OSError, EOFError) as error:
                    raise DataError(f"{source} is not a readable gzip file ({error}); download it again") from error
                with (new / "raw" / name).open("rb") as plain:
                    if plain.read(4) != (magic := UNSIGNED_BYTES + bytes([dimensions])):
                        raise DataError(f"{source} is not {name}, which begins with {magic.hex(' ')}; name another")
        return folder / self.subfolder
