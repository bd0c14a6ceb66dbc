"""Text sets: one sentence or two per example and a class, kept as arrays that every process of the machine maps.

On disk a part is the UTF-8 bytes of all its strings, one after the other, and where each one ends.
"""

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
"""The sentences, one or two, and the label as it is written."""


def strings(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Texts (N, sentences) as `Dataset` holds them."""
    return np.array(rows, np.dtypes.StringDType())


@dataclass(frozen=True)
class Texts(Source):
    """A text set that is imported from files.

    ``read`` gives, by part ('train', 'test'), the examples in the files; a set without a test part gives every fifth
    example to it. ``classes`` names each label as it is written; without, the labels found are the classes.
    ``graded``: labels are numbers (similarity), the target; the class is the nearest whole number.
    """

    name: str
    read: Callable[[list[Path]], dict[str, list[Example]]]
    says: str
    classes: tuple[tuple[str, str], ...] = ()
    graded: bool = False

    def find(self, place: Path) -> Path | None:
        return store.folder(place, self.name) if store.holds(place, self.name) else None

    def remedy(self) -> str:
        return f"run `python -m experiments data import {self.name} FILES`, where FILES are {self.says}"

    def fetch(self, place: Path) -> Path:
        raise DataError(f"{self.name} is not downloaded: {self.remedy()}")

    def unpack(self, files: list[Path], place: Path) -> Path:
        """``files``: an archive or files as ``says``; a folder stands for the files in it."""
        parts = self.read(files)
        if not parts.get("train"):
            raise DataError(f"these files do not hold {self.name}; name {self.says}")
        if not parts.get("test"):
            every = parts["train"]
            parts = {"train": [e for i, e in enumerate(every) if i % 5], "test": every[::5]}
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
            arrays |= {f"{key}_{part}": array for key, array in packed([texts for texts, _ in examples]).items()}
            arrays[f"y_{part}"] = np.array([known[label] for _, label in examples], np.int64)
            if self.graded:
                arrays[f"target_{part}"] = np.array([float(label) for _, label in examples], np.float32)
        return store.write(place, self.name, arrays, {"classes": names})

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.refuse_size(image_size)
        arrays, about = store.read(self.need(root))
        x = {part: unpacked(arrays[f"bytes_{part}"], arrays[f"ends_{part}"]) for part in ("train", "test")}
        rest: dict[str, Any] = {key: value for key, value in arrays.items() if key.startswith(("y_", "target_"))}
        return Dataset(self.name, x_train=x["train"], x_test=x["test"], classes=tuple(about["classes"]), **rest)


def packed(texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Texts (N, sentences) as ``bytes`` uint8 and ``ends`` int64 (N, sentences)."""
    encoded = [sentence.encode() for row in texts for sentence in row]
    ends = np.cumsum([len(sentence) for sentence in encoded]).reshape(len(texts), -1)
    return {"bytes": np.frombuffer(b"".join(encoded), np.uint8), "ends": ends}


def unpacked(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The inverse of `packed`: strings (N, sentences)."""
    whole, flat = data.tobytes(), ends.ravel().tolist()
    return strings([whole[a:b].decode() for a, b in zip([0, *flat[:-1]], flat, strict=True)]).reshape(ends.shape)


# readers


def members(files: list[Path]) -> dict[str, Callable[[], str]]:
    """What reads each file, by its path inside the archive or the folder, or by its name."""
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
            raise DataError(f"{member or path} is not readable text: {error}") from error

    return read


def table(text: str, columns: Sequence[str] = ()) -> Iterable[dict[str, str]]:
    """The rows of a TSV, where quotes are plain text; ``columns`` where it has no header. Odd rows are left out."""
    lines = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = list(columns) or next(lines, [])
    return (dict(zip(names, line, strict=True)) for line in lines if len(line) == len(names))


@dataclass(frozen=True)
class Glue:
    """A task of GLUE: ``train.tsv`` and, for test, ``dev.tsv`` of its ``folder``, for its test files have no labels.

    ``texts`` and ``label`` name columns; ``columns`` are all of them, where the files have no header.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    columns: tuple[str, ...] = ()

    def __call__(self, files: list[Path]) -> dict[str, list[Example]]:
        parts = {"train": "train.tsv", "test": "dev.tsv"}
        found = members(files)
        examples: dict[str, list[Example]] = {}
        for part, file in parts.items():
            reader = next((read for path, read in found.items() if f"/{path}".endswith(f"/{self.folder}/{file}")), None)
            if reader is not None:
                try:
                    rows = table(reader(), self.columns)
                    examples[part] = [([row[name] for name in self.texts], row[self.label]) for row in rows]
                except KeyError as error:
                    raise DataError(f"{self.folder}/{file} has no column {error}") from error
        return examples


def ag_news(files: list[Path]) -> dict[str, list[Example]]:
    """``text<TAB>class`` without a header; ``dev.tsv``, cut from the original train part, is for training."""
    found = members(files)
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


def own(files: list[Path]) -> dict[str, list[Example]]:
    """TSV files with a header, or JSON lines: ``label`` and ``text``, or ``sentence1`` and ``sentence2``.

    A file whose name begins with test, dev or valid is for test.
    """
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    for path, read in members(files).items():
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
            raise DataError(f"{path} is not JSON lines: {error}") from error
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
        Texts("own-text", own, "TSV or JSON lines with label and text, or label, sentence1 and sentence2"),
    )
}  # fmt: skip
