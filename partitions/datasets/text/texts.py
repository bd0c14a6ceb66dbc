"""Text data sets: one or two sentences per sample and a class, stored as arrays that every process maps."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import Source
from partitions.errors import DataError
from partitions.root import Root

Example = tuple[list[str], str]
"""One or two sentences, and the label as it is in the file."""


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
        labels = sorted({label for examples in parts.values() for _, label in examples})
        if self.graded:
            highest = round(max(map(float, labels)))
            known = {label: round(float(label)) for label in labels}
            names = [str(grade) for grade in range(highest + 1)]
        else:
            written = dict(self.classes) or {label: label for label in labels}
            if unknown := [label for label in labels if label not in written]:
                raise DataError(f"{self.name} has no label '{unknown[0]}'; known: {', '.join(written)}")
            names = list(dict.fromkeys(written.values()))
            known = {label: names.index(name) for label, name in written.items()}
        arrays: dict[str, np.ndarray] = {}
        for part, examples in parts.items():
            arrays |= {f"{key}_{part}": array for key, array in pack([texts for texts, _ in examples]).items()}
            arrays[f"y_{part}"] = np.array([known[label] for _, label in examples], np.int64)
            if self.graded:
                arrays[f"target_{part}"] = np.array([float(label) for _, label in examples], np.float32)
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


# Readers


def text_files(files: list[Path]) -> dict[str, Callable[[], str]]:
    """Find text files in archives and folders.

    Returns:
        For each file a function that reads it; the key is its path in the archive or folder, or else its name.
    """
    found: dict[str, Callable[[], str]] = {}
    for file in files:
        if file.is_dir():
            inside = [path for path in sorted(file.rglob("*")) if path.is_file()]
            found |= {path.relative_to(file.parent).as_posix(): _reader(path) for path in inside}
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                found |= {name: _reader(file, name) for name in archive.namelist()}
        else:
            found[file.name] = _reader(file)
    return found


def _reader(path: Path, member: str | None = None) -> Callable[[], str]:
    def read() -> str:
        try:
            if member is None:
                return path.read_bytes().decode("utf-8-sig")
            with zipfile.ZipFile(path) as archive:
                return archive.read(member).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise DataError(f"{member or path} is not readable text ({error}); save it as UTF-8") from error

    return read


def table(text: str, columns: Sequence[str] = ()) -> Iterable[dict[str, str]]:
    """Read the rows of a TSV without quoting; rows with too few or too many cells are left out.

    Args:
        columns: names of the columns if the text has no header.
    """
    lines = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = list(columns) or next(lines, [])
    return (dict(zip(names, line, strict=True)) for line in lines if len(line) == len(names))


@dataclass(frozen=True)
class Glue:
    """Read a task of GLUE: ``train.tsv``, and ``dev.tsv`` as the test part, because its test files have no labels.

    Args:
        folder: the task's folder.
        texts, label: names of the columns to read.
        columns: names of all columns if the files have no header.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    columns: tuple[str, ...] = ()

    def __call__(self, files: list[Path]) -> dict[str, list[Example]]:
        parts = {"train": "train.tsv", "test": "dev.tsv"}
        found = text_files(files)
        examples: dict[str, list[Example]] = {}
        for part, file in parts.items():
            reader = next((read for path, read in found.items() if f"/{path}".endswith(f"/{self.folder}/{file}")), None)
            if reader is not None:
                try:
                    rows = table(reader(), self.columns)
                    examples[part] = [([row[name] for name in self.texts], row[self.label]) for row in rows]
                except KeyError as error:
                    raise DataError(f"{self.folder}/{file} has no column {error}; name the files of GLUE") from error
        return examples


def ag_news(files: list[Path]) -> dict[str, list[Example]]:
    """Read ``text<TAB>class`` without a header; ``train.tsv`` or its part ``dev.tsv`` is for training."""
    found = text_files(files)
    names = {"train": ("train.tsv", "dev.tsv"), "test": ("test.tsv",)}
    readers = {
        part: next((read for name in wanted for path, read in found.items() if f"/{path}".endswith(f"/{name}")), None)
        for part, wanted in names.items()
    }
    return {
        part: [([row["text"]], row["class"]) for row in table(read(), ("text", "class"))]
        for part, read in readers.items()
        if read is not None
    }


def user_files(files: list[Path]) -> dict[str, list[Example]]:
    """Read TSV files with a header, or JSON lines: ``label`` and ``text``, or ``label``, ``sentence1``, ``sentence2``.

    A file whose name begins with test, dev or valid is for the test.
    """
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    for path, read in text_files(files).items():
        name, kind = Path(path).stem.lower(), Path(path).suffix
        if kind not in (".tsv", ".json", ".jsonl"):
            continue
        part = "test" if name.startswith(("test", "dev", "valid")) else "train"
        try:
            rows: Iterable[dict[str, Any]] = (
                table(read()) if kind == ".tsv" else (json.loads(line) for line in read().splitlines() if line.strip())
            )
            for row in rows:
                pair = ("sentence1", "sentence2") if "sentence2" in row else ("text",)
                examples[part].append(([str(row[key]) for key in pair], str(row["label"])))
        except KeyError as error:
            raise DataError(f"{path} has an example without {error}; give label and text, or a pair") from error
        except ValueError as error:
            raise DataError(f"{path} is not JSON lines ({error}); write one JSON object per line") from error
    return examples


TEXTS: dict[str, Texts] = {
    source.name: source
    for source in (
        Texts("sst2", Glue("SST-2", ("sentence",), "label"), "a zip or folder of GLUE with SST-2/train.tsv",
              (("0", "negative"), ("1", "positive"))),
        Texts("cola", Glue("CoLA", ("sentence",), "label", ("source", "label", "mark", "sentence")),
              "a zip or folder of GLUE with CoLA/train.tsv", (("0", "unacceptable"), ("1", "acceptable"))),
        Texts("mrpc", Glue("MRPC", ("#1 String", "#2 String"), "Quality"),
              "a zip or folder of GLUE with MRPC/train.tsv", (("0", "different"), ("1", "paraphrase"))),
        Texts("rte", Glue("RTE", ("sentence1", "sentence2"), "label"), "a zip or folder of GLUE with RTE/train.tsv",
              (("not_entailment", "not-entailment"), ("entailment", "entailment"))),
        Texts("stsb", Glue("STS-B", ("sentence1", "sentence2"), "score"),
              "a zip or folder of GLUE with STS-B/train.tsv", graded=True),
        Texts("agnews", ag_news, "a zip or folder with train.tsv or dev.tsv, and test.tsv, of lines text<TAB>class"),
        Texts("own-text", user_files, "TSV or JSON lines with label and text, or label, sentence1 and sentence2"),
    )
}  # fmt: skip
