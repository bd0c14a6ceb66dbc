"""Text data sets: one or two sentences per sample and a class, stored as arrays that every process maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import Source
from partitions.errors import DataError
from partitions.root import Root

HIGHEST_GRADE = 100


@dataclass(frozen=True)
class Example:
    """One or two sentences, the label as it is in the file, and the place where it is, for error messages."""

    texts: list[str]
    label: str
    where: str

    @classmethod
    def of(cls, where: str, row: Mapping[str, Any], texts: Sequence[str], label: str) -> "Example":
        """Read an example from the cells of a row.

        Raises:
            DataError: a cell is missing, or is no text; a label may be a whole number, too.
        """
        for key in (*texts, label):
            if key not in row:
                raise DataError(f"{where} has no '{key}'; give {label} and {' and '.join(texts)}")
            kinds = (str, int) if key == label else (str,)
            if not isinstance(row[key], kinds) or isinstance(row[key], bool):
                raise DataError(f"{where}: {key} is {row[key]!r:.40}, not text")
        if not (name := str(row[label]).strip()):
            raise DataError(f"{where}: {label} is empty; write one")
        return cls([row[key] for key in texts], name, where)

    def grade(self) -> float:
        """Return the label as a number.

        Raises:
            DataError: it is none from 0 to `HIGHEST_GRADE`.
        """
        try:
            if 0 <= (grade := float(self.label)) <= HIGHEST_GRADE:
                return grade
        except ValueError:
            pass
        raise DataError(f"{self.where}: the score is '{self.label:.40}', not a number from 0 to {HIGHEST_GRADE}")


def strings(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Convert texts to an array of strings (N, sentences), as in a `Dataset`."""
    return np.array(rows, np.dtypes.StringDType())


@dataclass(frozen=True)
class Texts(Source):
    """Import a text data set from files.

    Args:
        name: the data set's name.
        read: returns the examples in the files, by part ('train', 'test'). Without a test part, every fifth example is
            for the test.
        expects: the files to import, for error messages.
        classes: label in the file and name of its class; empty: the labels in the files are the classes.
        graded: labels are numbers (similarity), the regression target; the class is the nearest whole number.
    """

    name: str
    read: Callable[[list[Path]], dict[str, list[Example]]]
    expects: str
    classes: tuple[tuple[str, str], ...] = ()
    graded: bool = False

    def find(self, folder: Path) -> Path | None:
        return store.find(folder, self.name)

    def how_to_obtain(self) -> str:
        return f"run `python -m experiments data import {self.name} FILES`, where FILES are {self.expects}"

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import an archive, single files or all files in a folder; ``expects`` says which ones."""
        parts = self.read(files)
        if not parts.get("train"):
            raise DataError(f"these files do not hold {self.name}; name {self.expects}")
        if not parts.get("test"):
            parts = split_test(parts["train"])
        every = [example for examples in parts.values() for example in examples]
        for part, found in parts.items():
            if not found:
                raise DataError(f"these files leave {self.name} no example for the {part} part; it needs at least 2")
        if odd := [example for example in every if len(example.texts) != len(every[0].texts)]:
            raise DataError(f"{odd[0].where} has {len(odd[0].texts)} texts, {every[0].where} has {len(every[0].texts)}")
        labels = sorted({example.label for example in every})
        if self.graded:
            known = {example.label: round(example.grade()) for example in every}
            names = [str(grade) for grade in range(max(known.values()) + 1)]
        else:
            written = dict(self.classes) or {label: label for label in labels}
            if odd := [example for example in every if example.label not in written]:
                raise DataError(f"{odd[0].where}: no label '{odd[0].label:.40}'; known: {', '.join(written)}")
            names = list(dict.fromkeys(written.values()))
            known = {label: names.index(name) for label, name in written.items()}
        arrays: dict[str, np.ndarray] = {}
        for part, examples in parts.items():
            arrays |= {f"{key}_{part}": array for key, array in pack([example.texts for example in examples]).items()}
            arrays[f"y_{part}"] = np.array([known[example.label] for example in examples], np.int64)
            if self.graded:
                arrays[f"target_{part}"] = np.array([example.grade() for example in examples], np.float32)
        return store.write(folder, self.name, arrays, {"classes": names})

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.reject_image_size(image_size)
        arrays, names = store.read(self.require(root))
        x = {part: unpack(arrays[f"bytes_{part}"], arrays[f"ends_{part}"]) for part in ("train", "test")}
        rest: dict[str, Any] = {key: value for key, value in arrays.items() if key.startswith(("y_", "target_"))}
        return Dataset(self.name, x_train=x["train"], x_test=x["test"], classes=tuple(names["classes"]), **rest)


def split_test(every: list[Any]) -> dict[str, list[Any]]:
    """Split into a training part and a test part, which gets every fifth item."""
    return {"train": [item for i, item in enumerate(every) if i % 5], "test": every[::5]}


def pack(texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Convert texts (N, sentences) to UTF-8 ``bytes`` uint8 and the ``ends`` of all strings int64 (N, sentences)."""
    encoded = [sentence.encode() for row in texts for sentence in row]
    ends = np.cumsum([len(sentence) for sentence in encoded]).reshape(len(texts), -1)
    return {"bytes": np.frombuffer(b"".join(encoded), np.uint8), "ends": ends}


def unpack(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Convert what `pack` returns back to strings (N, sentences)."""
    whole, flat = data.tobytes(), ends.ravel().tolist()
    return strings([whole[a:b].decode() for a, b in zip([0, *flat[:-1]], flat, strict=True)]).reshape(ends.shape)
