"""Examples that people wrote: a file for each device, which only that device needs."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from partitions.datasets.columns import Columns
from partitions.datasets.device_files import READERS, SERVER, find_files
from partitions.datasets.text.personas import Example, Split
from partitions.datasets.text.reading import TextFile
from partitions.errors import DataError

LEAST = 5  # examples of a device: three to train, one to calibrate the gate, one for the test
FORM = '{"instruction": ..., "output": ...}'


class ExampleFiles:
    """People whose examples are in ``device-0.jsonl``, ``device-1.csv``, ``.parquet`` and so on. Nothing drifts.

    A file is read when its device is asked for, so a real device needs only its own. Of every five examples the fourth
    calibrates, the fifth is for the test, and the others are for training.

    Args:
        folder: of the files.

    Raises:
        DataError: the folder has no such files, or others of their name.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        if not folder.is_dir() or not (files := find_files(folder)):
            raise DataError(
                f"{folder} has no examples: name the file of each device device-0.jsonl, device-1.jsonl, ..."
            )
        if SERVER in files:
            raise DataError(f"{files[SERVER]} is not read, because the cloud's base is frozen: remove it")
        if odd := next((path for path in files.values() if path.suffix not in READERS), None):
            raise DataError(f"{odd} cannot hold examples: give {', '.join(sorted(READERS))}")
        self._files = files
        self._read = lru_cache(maxsize=None)(read_examples)

    def check(self, devices: int) -> None:
        """Read the files of all devices. DataError: one is missing or wrong."""
        for device in range(devices):
            self._of(device)

    @property
    def digest(self) -> str:
        """A hash of what is in the files."""
        lines = [self._read(path) for path in self._files.values()]
        return hashlib.blake2b(repr(lines).encode(), digest_size=16).hexdigest()

    def examples(self, device: int, step: int, split: Split) -> list[Example]:
        """Return a device's examples of a split, the same at every step.

        Raises:
            DataError: its file is missing, cannot be read, or has too few examples.
        """
        of = {"train": (0, 1, 2), "calibrate": (3,), "test": (4,)}[split]
        return [example for number, example in enumerate(self._of(device)) if number % LEAST in of]

    def _of(self, device: int) -> list[Example]:
        if not (path := self._files.get(f"device-{device}")):
            raise DataError(f"{self._folder} has no file of device-{device}, only of {', '.join(self._files)[:200]}")
        found = self._read(path)
        if len(found) < LEAST:
            raise DataError(f"{path} has {len(found)} examples; a device needs at least {LEAST}")
        return found


def read_examples(path: Path) -> list[Example]:
    """Read examples from JSON lines, or from a CSV or Parquet table, with ``instruction``, ``output`` and ``input``.

    ``input`` may be left out; empty lines of JSON are skipped.

    Raises:
        DataError: the file cannot be read or has no examples, or one has another form.
    """
    examples = []
    for where, row in _rows(path):
        fields = [row.get("instruction"), row.get("output"), row.get("input", "")]
        if not all(isinstance(field, str) for field in fields) or not fields[0] or not fields[1]:
            raise DataError(f"{where}: instruction and output must be text that is not empty, and input must be text")
        examples.append(Example(*map(str, fields)))
    if not examples:
        raise DataError(f"{path} has no examples; write one {FORM} per line")
    return examples


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the values of each example; an empty cell counts as left out."""
    if path.suffix == ".jsonl":
        yield from TextFile(path).objects(FORM)
        return
    frame = READERS[path.suffix](path, Columns(label="output"))
    for number, row in enumerate(frame.astype(object).where(frame.notna(), None).to_dict("records"), 1):
        yield f"{path}, row {number}", {str(key): value for key, value in row.items() if value is not None}
