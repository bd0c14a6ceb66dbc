"""What a study is: a look at the cloud models of one seed, without rounds, that gives rows of a tidy CSV."""

import io
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from experiments.summary import COLUMNS, Line, Paper, spread_lines
from fl.config.settings import Settings
from fl.results.files import ResultsError, atomic_write, cell, config_text, csv_text, lock, merged, told, versions
from fl.workloads import find

Tick = Callable[[str, int, int], None]
"""``tick(what, at, of)``: how far a study is."""
WHO = ("experiment", "setting", "seed")
FILE = "study.csv"
Measured = Mapping[tuple[str, str], float]
"""{(method, metric): value} of one setting and seed."""


def prepared(settings: Settings, seed: int) -> object:
    """What the cloud prepares for a run of the settings. SettingsError, DataError: it cannot."""
    return find(settings.workload).prepare(settings, seed)


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        row: a dataclass of str, int and float fields, the columns of ``study.csv`` after experiment, setting and seed.
        measure: ``measure(settings, seed, tick)`` gives the rows of one setting and seed; a pure function of both.
        metrics: what those rows (as a frame) come down to, for ``summary.csv``.
        check: finds what is wrong with a setting and seed before the first one is measured.
    """

    row: type
    measure: Callable[[Settings, int, Tick], Iterable[Any]]
    metrics: Callable[[pd.DataFrame], Measured]
    check: Callable[[Settings, int], object] = prepared


class StudyResults:
    """A study's folder, ``config.toml`` and ``study.csv``; rows of a setting and seed are added whole or not at all.

    Raises:
        ResultsError: the folder holds results of other settings, or damaged ones, another process writes to it, or
            nobody can.
    """

    def __init__(self, out: Path, study: Study, settings: Sequence[Settings], overwrite: bool = False) -> None:
        self.path, self.experiment = out / FILE, settings[0].experiment
        self.columns = [*WHO, *(field.name for field in fields(study.row))]
        config: dict[str, Any] = {
            "experiment": self.experiment,
            "seeds": settings[0].seed_list,
            "methods": [],
            "settings": {s.setting: s.resolved() for s in settings},
            "versions": [versions(settings[0])],
        }
        with told(f"write to '{out}'"):
            out.mkdir(parents=True, exist_ok=True)
        self.close = weakref.finalize(self, lock(out))
        try:
            with told(f"write to '{out}'"):
                if overwrite:
                    self.path.unlink(missing_ok=True)
                self._lines = self._read(study)
                atomic_write(out / "config.toml", config_text(merged(out, config) if self._lines else config))
        except BaseException:
            self.close()
            raise

    def done(self, setting: str, seed: int) -> bool:
        """Whether the folder holds the rows of a setting and seed."""
        return any(line[1:3] == [setting, str(seed)] for line in self._lines)

    def add(self, setting: str, seed: int, rows: Iterable[Any]) -> None:
        """Add the rows of a setting and seed; when this returns they are on the disk."""
        self._lines += [[self.experiment, setting, str(seed), *map(cell, astuple(row))] for row in rows]
        with told(f"write to '{self.path}'"):
            atomic_write(self.path, csv_text([self.columns, *self._lines]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, study: Study) -> list[list[str]]:
        if not self.path.exists():
            return []
        read_study(self.path.parent, study)
        frame: pd.DataFrame = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        return frame.to_numpy().tolist()


def read_study(out: Path, study: Study) -> pd.DataFrame:
    """``study.csv`` of a results folder.

    Raises:
        ResultsError: it is missing, damaged or not of this version.
    """
    path = out / FILE
    if not path.is_file():
        raise ResultsError(f"'{path}' does not exist; run the experiment first")
    types = {"experiment": str, "setting": str, "seed": int} | {f.name: f.type for f in fields(study.row)}
    try:
        frame = pd.read_csv(io.StringIO(path.read_text(encoding="utf-8")), keep_default_na=False, na_values=[""])
        if list(frame.columns) == list(types):
            return frame.astype(types)
    except ValueError as error:
        raise ResultsError(f"'{path}' has a line that does not read: {error}") from error
    raise ResultsError(f"'{path}' does not have the columns of this version; choose another folder")


def summarize_study(frame: pd.DataFrame, study: Study, paper: Paper | None = None) -> pd.DataFrame:
    """The summary of a study's rows, in the form of `experiments.summary.summarize`."""
    lines: list[Line] = []
    for (experiment, setting), of in frame.groupby(["experiment", "setting"], sort=False):
        runs = [study.metrics(rows) for _, rows in of.groupby("seed")]
        for method in dict.fromkeys(method for run in runs for method, _ in run):
            own = [{name: value for (of_, name), value in run.items() if of_ == method} for run in runs]
            names = dict.fromkeys(name for run in own for name in run)
            lines += spread_lines((experiment, setting, method), own, names, paper)
    return pd.DataFrame(lines, columns=list(COLUMNS))
