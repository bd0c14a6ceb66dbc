"""Write the folder of an experiment: its config (``config.toml``) and its rows (``rounds.csv`` and other tables).

A folder only grows: a run appends whole rows and is then marked as finished. A later run of the same config skips
the finished runs. If a process is killed, its files can still be read. Equal numbers give equal bytes, so ``cmp``
compares two folders once ``wall_s`` is removed, the only column that depends on a clock.
"""

import csv
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from fl.results.checks import CHECKSUMS, Checks, Sums, read_checks, verify, write_checks
from fl.results.files import (
    CHECKPOINTS,
    MODELS,
    ResultsError,
    as_results_error,
    atomic_write,
    config_text,
    csv_text,
    lock,
    refuse_beside,
    whole_lines,
)
from fl.results.merge import merge_configs, plain
from fl.results.reader import finished, refuse_other_runs
from fl.results.rows import AnyRow, DeviceRow, MeasureRow, Row, RowKey, Run, TableRow, column_types, columns_of
from fl.results.versions import versions

# The files of a folder, which `overwrite` removes.
FILES = (
    "rounds.csv",
    "study.csv",
    "devices.csv",
    "measures.csv",
    "summary.csv",
    "table.md",
    "figure.png",
    "figure.svg",
    "sweep.csv",
    "columns.md",
    "report.html",
    "config.toml",
    CHECKSUMS,
)
TABLES: dict[str, type[TableRow]] = {"rounds.csv": Row, "devices.csv": DeviceRow, "measures.csv": MeasureRow}


class ResultsWriter:
    """Writes the folder of one experiment. Open it once, at the start of the experiment, with all its settings.

    Args:
        out: absolute path of the folder.
        settings: name of a setting -> its values as nested tables. Leave out the columns of a row (method, seed) and
            values that cannot change a number (paths, worker counts). A folder that holds other values under the same
            name is refused. New settings, seeds and methods extend the folder.
        overwrite: remove the earlier results of the folder.
        made: versions of what produces the rows; by default `versions` of this process.
        defaults: dotted key of a setting -> its default; general: sections of every run, see `merge_configs`.

    Raises:
        ResultsError: the folder cannot be written, another process writes to it, or it holds other results.

    Example::

        with ResultsWriter(out, "table1", {"m=2": {...}, "m=5": {...}}, seeds=[0, 1], methods=["fedavg"]) as results:
            if ("m=2", "fedavg", 0) not in results.done():
                results.rewind("m=2", "fedavg", 0)  # or to the round of a checkpoint
                results.append([Row("table1", "m=2", "fedavg", 0, round=1, step=0, devices=25)])
                results.finish("m=2", "fedavg", 0)
    """

    def __init__(
        self,
        out: Path,
        experiment: str,
        settings: Mapping[str, Mapping[str, object]],
        seeds: Sequence[int],
        methods: Sequence[str] = (),
        *,
        overwrite: bool = False,
        made: Sequence[Mapping[str, str]] = (),
        defaults: Mapping[str, object] = {},
        general: Collection[str] | None = None,
    ) -> None:
        # `flwr run` starts the ServerApp in another folder, where a relative path would be lost.
        if not out.is_absolute():
            raise ResultsError(f"results folder '{out}' is relative; give an absolute path")
        if out.is_file():
            raise ResultsError(f"'{out}' is a file; results need a folder")
        self.out = out
        config: dict[str, Any] = {
            "experiment": experiment,
            "seeds": [int(seed) for seed in seeds],
            "methods": list(methods),
            "settings": plain(settings),
            "finished": {},
            "versions": [dict(one) for one in made] or [versions()],
        }
        self._tables: dict[str, _Table] = {}  # devices.csv and measures.csv are created by their first row
        with as_results_error(f"write results to '{out}'"):
            out.mkdir(parents=True, exist_ok=True)
            self._unlock = weakref.finalize(self, lock(out))
            new = not (out / "config.toml").exists()
            try:
                self._config = self._open(config, partial(merge_configs, defaults=defaults, general=general), overwrite)
                self._checks = {key: check for key, check in read_checks(out).items() if key[1] in self.done()}
                for name in TABLES:
                    if (out / name).exists():
                        self._table(name)
                    elif any(file == name for file, _ in self._checks):
                        raise ResultsError(f"'{out / name}' is gone; restore it or start anew (--overwrite)")
                self._write_config()
                self._table("rounds.csv")
                keys = {name: self._keys(name) for name in self._tables}
                self._written = keys["rounds.csv"]
            except BaseException:
                for table in self._tables.values():
                    table.close()
                if new:  # a refused folder stays as it was
                    (out / "config.toml").unlink(missing_ok=True)
                self._unlock()
                raise

    def append(self, rows: Iterable[Row]) -> None:
        """Append whole rows to ``rounds.csv``. When this returns, they are on the disk."""
        rows = self._checked(rows)
        keys = [(row.setting, row.method, int(row.seed), int(row.round)) for row in rows]
        for i, key in enumerate(keys):
            if key in self._written or key in keys[:i]:
                raise ResultsError(f"'{self.out}' already has the row of {key}; rewind the run to write it again")
        self._table("rounds.csv").append(rows)
        self._written.update(keys)

    def append_devices(self, rows: Iterable[DeviceRow]) -> None:
        """Append whole rows to ``devices.csv``. The first call creates the file."""
        self._table("devices.csv").append(self._checked(rows))

    def append_measures(self, rows: Iterable[MeasureRow]) -> None:
        """Append whole rows to ``measures.csv``. The first row creates the file."""
        if rows := self._checked(rows):
            self._table("measures.csv").append(rows)

    def finish(self, setting: str, method: str, seed: int) -> None:
        """Mark a run as finished: all its rows are written."""
        run = (setting, method, int(seed))
        if run not in self.done():
            self._checks |= {(name, run): table.sums.of(run) for name, table in self._tables.items()}
            write_checks(self.out, self._checks)
            seeds = self._config["finished"].setdefault(setting, {}).setdefault(method, [])
            seeds[:] = sorted([*seeds, int(seed)])
            self._write_config()

    def done(self) -> set[Run]:
        """Return the finished runs. Other rows of ``rounds.csv`` are of interrupted runs."""
        return set(finished(self._config))

    def last_round(self, setting: str, method: str, seed: int) -> int:
        """Return the last round of a run before the first missing row; 0 if there is none."""
        round_ = 0
        while (setting, method, seed, round_ + 1) in self._written:
            round_ += 1
        return round_

    def digest(self, setting: str, methods: Sequence[str], seed: int, round: int | None = None) -> str:
        """Return a hash of the rows of some methods up to a round, in all tables; without a round, of all rows."""
        sums = {name: table.sums if round is None else table.until(round) for name, table in self._tables.items()}
        found = [(name, method, *of.of((setting, method, seed))) for name, of in sums.items() for method in methods]
        return repr(sorted(row for row in found if row[2]))

    def rewind(self, setting: str, method: str, seed: int, round: int = -1) -> None:
        """Drop the rows of a run after ``round`` (by default all) and its finished mark, to run it again from there."""
        run = (setting, method, int(seed))

        def dropped(key: RowKey) -> bool:
            return key[:3] == run and not 0 < key[3] <= round

        # The mark goes first. After a crash in between, the run is unfinished with spare rows: rows of a finished run
        # are never missing.
        if run in self.done():
            self._config["finished"][setting][method].remove(run[2])
            self._write_config()
            self._checks = {key: check for key, check in self._checks.items() if key[1] != run}
            write_checks(self.out, self._checks)
        for table in self._tables.values():
            table.drop(lambda line: dropped(_key(line)))
        self._written = {key for key in self._written if not dropped(key)}

    def close(self) -> None:
        """Close the files and unlock the folder."""
        for table in self._tables.values():
            table.close()
        self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self, config: dict[str, Any], merge_with: Callable[[Path, dict[str, Any]], dict[str, Any]], overwrite: bool
    ) -> dict[str, Any]:
        """Return the folder's config, extended by ``config``."""
        if overwrite:
            for name in FILES:
                (self.out / name).unlink(missing_ok=True)
            for folder in (CHECKPOINTS, MODELS):
                shutil.rmtree(self.out / folder, ignore_errors=True)
        refuse_beside(self.out, "study.csv")
        rounds = self.out / "rounds.csv"
        holds_rows = rounds.exists() and len(whole_lines(rounds)) > 1
        try:
            merge = holds_rows or (self.out / "config.toml").exists()
            return merge_with(self.out, config) if merge else config
        except ResultsError:
            # Without rows there is nothing to protect: the user may correct a run that failed at its start.
            if holds_rows:
                raise
            return config

    def _keys(self, name: str) -> set[RowKey]:
        """Return the keys of the rows of a table.

        Raises:
            ResultsError: a row belongs to no run of this folder, or a finished run has no row.
        """
        lines = [(line["experiment"], _key(line)) for line in self._table(name).lines()]
        refuse_other_runs(self.out / name, ((experiment, key[:3]) for experiment, key in lines), self._config)
        return {key for _, key in lines}

    def _table(self, name: str) -> "_Table":
        if name not in self._tables:
            self._tables[name] = _Table(self.out / name, TABLES[name], self._checks)
        return self._tables[name]

    def _write_config(self) -> None:
        with as_results_error(f"write '{self.out / 'config.toml'}'"):
            atomic_write(self.out / "config.toml", config_text(self._config))

    def _checked(self, rows: Iterable[AnyRow]) -> list[AnyRow]:
        rows = list(rows)
        for row in rows:
            if row.experiment != self._config["experiment"] or row.setting not in self._config["settings"]:
                raise ResultsError(f"'{row.experiment}', setting '{row.setting}' is not in the config of '{self.out}'")
        return rows


class _Table:
    """A CSV file that grows by whole rows. A file of an earlier version keeps its columns.

    Raises:
        ResultsError: it has other columns, or rows of a finished run are not those that were written.
    """

    def __init__(self, path: Path, kind: type[TableRow], checks: Checks) -> None:
        self.path = path
        lines = whole_lines(path) if path.exists() else []
        self.types = columns_of(next(csv.reader(lines)), kind) if lines else column_types(kind)
        self.columns = list(self.types)
        if not self.columns:
            raise ResultsError(f"'{path}' has other columns than this version writes; choose another folder")
        lines = lines or [csv_text([self.columns])]
        self.sums = Sums(path, lines)
        verify(path, self.sums, checks)
        self._rewrite(lines)  # removes a last line that a crash cut off

    def append(self, rows: Sequence[TableRow]) -> None:
        lines = [csv_text([self._typed(row)]) for row in rows]
        data = "".join(lines).encode()
        end = self._file.seek(0, os.SEEK_END)
        with as_results_error(f"append to '{self.path}'"):
            try:
                if self._file.write(data) != len(data):
                    raise OSError("the disk took only part of the rows")
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(end)
                raise
        for row, line in zip(rows, lines, strict=True):
            self.sums.add((row.setting, row.method, int(row.seed)), line)

    def until(self, round: int) -> Sums:
        """Return the sums of the rows up to a round."""
        header, *lines = whole_lines(self.path)
        early = [line for line, cells in zip(lines, self.lines(), strict=True) if _key(cells)[3] <= round]
        return Sums(self.path, [header, *early])

    def lines(self) -> Iterator[dict[str, str]]:
        """Yield each row as column -> cell."""
        for line in csv.reader(whole_lines(self.path)[1:]):
            if len(line) != len(self.columns):
                raise ResultsError(f"'{self.path}' has a line of {len(line)} cells instead of {len(self.columns)}")
            yield dict(zip(self.columns, line, strict=True))

    def drop(self, dropped: Callable[[dict[str, str]], bool]) -> None:
        header, *lines = whole_lines(self.path)
        kept = [line for line, cells in zip(lines, self.lines(), strict=True) if not dropped(cells)]
        if len(kept) < len(lines):
            self.close()
            self._rewrite([header, *kept])
            self.sums = Sums(self.path, [header, *kept])

    def close(self) -> None:
        self._file.close()

    def _typed(self, row: TableRow) -> list[object]:
        """Convert values to the types of their columns, so that 3, 3.0 and numpy's 3 give the same bytes."""
        values: list[object] = []
        for name, kind in self.types.items():
            value = getattr(row, name)
            if kind is int and not float(value).is_integer():
                raise ResultsError(f"column '{name}' holds whole numbers, not {value!r}")
            values.append(value if kind is str else kind(value))
        return values

    def _rewrite(self, lines: list[str]) -> None:
        with as_results_error(f"write '{self.path}'"):
            atomic_write(self.path, "".join(lines))
        self._file = self.path.open("ab", buffering=0)  # unbuffered: one append is one write


def _key(line: Mapping[str, str]) -> RowKey:
    try:
        return line["setting"], line["method"], int(line["seed"]), int(line["round"])
    except ValueError as error:
        raise ResultsError(f"a row is damaged ({error}); restore the file or start anew (--overwrite)") from error
