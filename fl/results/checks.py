"""Checksums of finished runs, in ``checksums.csv``: a row that is lost, doubled or changed later is noticed."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.results.files import ResultsError, as_results_error, atomic_write, csv_text, whole_lines
from fl.results.rows import Run

CHECKSUMS = "checksums.csv"
COLUMNS = ("file", "setting", "method", "seed", "rows", "digest")
Checks = dict[tuple[str, Run], tuple[int, str]]
"""{(file, run): (rows, digest)} of finished runs."""


class Sums:
    """The number and the hash of the lines of each run in a table.

    Args:
        path: of the table; lines: its header and its rows, with their ends.
        methods: whether each method is a run; False: the runs of a study, whose method is empty.

    Raises:
        ResultsError: a row has no setting, method and seed.
    """

    def __init__(self, path: Path, lines: Sequence[str], methods: bool = True) -> None:
        self._of: dict[Run, tuple[int, Any]] = {}
        try:
            header, *rows = csv.reader(lines)
            setting, seed = header.index("setting"), header.index("seed")
            method = header.index("method") if methods else 0
            for row, line in zip(rows, lines[1:], strict=True):
                self.add((row[setting], row[method] if methods else "", int(row[seed])), line)
        except (ValueError, IndexError, csv.Error) as error:
            raise ResultsError(f"'{path}' is damaged ({error}); restore it or start anew (--overwrite)") from error

    def add(self, run: Run, line: str) -> None:
        """Add the next line of a run."""
        rows, digest = self._of.get(run) or (0, hashlib.blake2b(digest_size=8))
        digest.update(line.encode())
        self._of[run] = rows + 1, digest

    def of(self, run: Run) -> tuple[int, str]:
        """Return the number of lines of a run, and their hash."""
        rows, digest = self._of.get(run) or (0, hashlib.blake2b(digest_size=8))
        return rows, digest.hexdigest()


def read_checks(out: Path) -> Checks:
    """Return the checksums of a folder. Folders of earlier versions have none.

    Raises:
        ResultsError: the file is damaged.
    """
    path = out / CHECKSUMS
    if not path.exists():
        return {}
    try:
        every = whole_lines(path)
        lines = every[:-1]
        if every[-1:] != [_last(lines)]:
            raise ValueError("a line was lost or changed")
        return {
            (file, (setting, method, int(seed))): (int(rows), digest)
            for file, setting, method, seed, rows, digest in [*csv.reader(lines)][1:]
        }
    except (ValueError, csv.Error) as error:
        raise ResultsError(f"'{path}' is damaged ({error}); restore it or start anew (--overwrite)") from error


def write_checks(out: Path, checks: Checks) -> None:
    """Write the checksums of a folder."""
    text = csv_text([COLUMNS, *((name, *run, *check) for (name, run), check in sorted(checks.items()))])
    with as_results_error(f"write '{out / CHECKSUMS}'"):
        atomic_write(out / CHECKSUMS, text + _last(text.splitlines(keepends=True)))


def _last(lines: Sequence[str]) -> str:
    """Return the last line of the file: its own name, the number of the other lines, and their hash."""
    digest = hashlib.blake2b("".join(lines).encode(), digest_size=8).hexdigest()
    return csv_text([(CHECKSUMS, "", "", "", len(lines), digest)])


def verify(path: Path, sums: Sums, checks: Mapping[tuple[str, Run], tuple[int, str]]) -> None:
    """Compare the lines of a table with those checksums that are of it.

    Raises:
        ResultsError: a row was lost, doubled or changed since its run was finished.
    """
    for (file, run), (rows, digest) in checks.items():
        now, is_ = sums.of(run) if file == path.name else (rows, digest)
        if (now, is_) != (rows, digest):
            setting, method, seed = run
            of = f"{method} (setting '{setting}', seed {seed})" if method else f"setting '{setting}', seed {seed}"
            what = f"{now} rows instead of {rows}" if now != rows else "another content"
            raise ResultsError(
                f"'{path}' was changed after the run of {of} was finished: it has {what}; "
                "restore the file or start anew (--overwrite)"
            )
