"""Matrices in text files: a line for each step or round, a column for each device, whole numbers."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from partitions.errors import DataError
from partitions.root import absolute

MOST = 999  # largest number in a matrix


@dataclass(frozen=True, eq=False)
class Matrix:
    """The numbers of a file.

    Args:
        path: the file.
        values: (lines, devices).
        digest: a hash of the file.
    """

    path: Path
    values: np.ndarray
    digest: str

    @cached_property
    def largest(self) -> int:
        """Return the largest number."""
        return int(self.values.max())

    def at(self, line: int, device: int) -> int:
        """Return the number of a line and a device, both counted from 0; DataError if the file has none."""
        self.check(line + 1, device + 1)
        return int(self.values[line, device])

    def check(self, lines: int = 0, devices: int = 0) -> None:
        """Raise DataError if the file has fewer ``lines`` or columns than are needed."""
        have = self.values.shape
        if devices > have[1]:
            raise DataError(
                f"{self.path} has {have[1]} columns, one for each device, and device {devices - 1} needs column "
                f"{devices}: add columns, or set devices.count to at most {have[1]}"
            )
        if lines > have[0]:
            raise DataError(
                f"{self.path} has {have[0]} lines, and line {lines} is needed: add lines, or ask for fewer steps "
                "(rounds, rounds-per-step, or --steps of the command `drift`)"
            )


def read_matrix(path: str, largest: int = MOST) -> Matrix:
    """Read a file of whole numbers from 0 to ``largest``, separated by spaces or by commas.

    Text after ``#`` and empty lines are skipped. The first line is step (or round) number 0.

    Raises:
        DataError: the file is missing, or a number is; the message names file and line.
    """
    file = absolute(path)
    try:
        return _read(file, largest, file.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise DataError(f"{file} cannot be read ({reason}): name a file with a line for each step") from error


@lru_cache(maxsize=8)
def _read(file: Path, largest: int, _changed: int) -> Matrix:
    content = file.read_bytes()
    rows: list[list[int]] = []
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        words = [word.strip() for word in text.split(",")] if "," in text else text.split()
        for column, word in enumerate(words, 1):
            if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) <= largest):
                raise DataError(
                    f"{file}, line {number}, column {column}: '{word}' is not a whole number from 0 to {largest}"
                )
        if rows and len(words) != len(rows[0]):
            raise DataError(
                f"{file}, line {number}: it has {len(words)} numbers, and the lines before have {len(rows[0])}; write "
                "one for each device"
            )
        rows.append([int(word) for word in words])
    if not rows:
        raise DataError(f"{file} holds no numbers: write a line for each step, with a number for each device")
    values = np.array(rows, np.int16)
    values.flags.writeable = False
    return Matrix(file, values, hashlib.blake2b(content, digest_size=16).hexdigest())
