"""How the files of a results folder are written: whole or not at all, and the same numbers as the same bytes."""

import csv
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from partitions.errors import UserError

CHECKPOINTS = "checkpoints"  # folder with the state of an unfinished run, see `fl.server.checkpoint`
MODELS = "final-models"  # folder of saved models, see `fl.results.saved`


class ResultsError(UserError, ValueError):
    """Results cannot be written or read. The message is one sentence for the user."""


@contextmanager
def as_results_error(what: str) -> Iterator[None]:
    """Turn an OSError into a ResultsError of one sentence.

    Args:
        what: the action that may fail, as it follows "cannot": "write to 'results'".
    """
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"cannot {what}: {error.strerror or error}; solve this, then repeat the same command to continue"
        ) from error


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing. Readers see the old file or the new one, also after a crash."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that takes the place of ``path`` at the end. After an error, ``path`` is as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def cut_off(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """Return the temporary files of `replacing` that a kill has left of files of such a name."""
    found = ((path, re.fullmatch(r"\.(.+)\.\d+\.tmp", path.name)) for path in folder.glob(".*.tmp"))
    return [path for path, match in found if match and name.fullmatch(match[1])]


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """Format lines of a CSV file: floats with 10 significant digits, NaN as an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in line] for line in lines)
    return text.getvalue()


def cell(value: object) -> str:
    """Format a value as a CSV cell. Python's and numpy's numbers give the same text."""
    if isinstance(value, str):
        if "\n" in value or "\r" in value:  # one line is one row: a line without an end was cut off by a crash
            raise ResultsError(f"a CSV cell cannot hold a line break: {value!r}")
        return value
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{float(value):.10g}"
    raise ResultsError(f"a CSV cell holds text or a number, not {value!r}")


def config_text(config: Mapping[str, Any]) -> str:
    """Format ``config.toml``, with each list of plain values on one line."""
    return re.sub(r"\[\n((?:    [^\[\]{}\n]+,\n)+)\]", _one_line, tomli_w.dumps(config))


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file with their ends. A last line without an end is left out: a crash cut it off.

    Raises:
        ResultsError: the file cannot be read, or is not text.
    """
    with as_results_error(f"read '{path}'"):
        text = path.read_bytes()
    try:
        return [line + "\n" for line in text[: text.rfind(b"\n") + 1].decode().split("\n")[:-1]]
    except UnicodeDecodeError as error:
        raise ResultsError(f"'{path}' is damaged, it is not text; restore it or choose another folder") from error


def lock(out: Path) -> Callable[[], None]:
    """Lock a folder for this process, because a second writer would repair a line that the first is writing.

    Returns:
        A function that unlocks the folder.

    Raises:
        ResultsError: another process writes to the folder.
    """
    if sys.platform == "win32":
        return lambda: None
    import fcntl

    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ResultsError(f"another run is writing to '{out}'; wait for it or choose another folder") from error
    except OSError:  # a file system without locks
        pass
    return partial(os.close, handle)


def refuse_beside(out: Path, other: str) -> None:
    """Refuse a folder that holds a file of the other kind of experiment.

    A folder holds the rows of methods (``rounds.csv``) or of a study (``study.csv``). With both, the summary of one
    would replace the summary of the other.

    Raises:
        ResultsError: the file ``other`` exists.
    """
    if (out / other).exists():
        raise ResultsError(f"'{out}' holds results of another kind of experiment ({other}); choose another folder")


def _one_line(found: re.Match[str]) -> str:
    return "[" + found[1].strip(" ,\n").replace(",\n    ", ", ") + "]"
