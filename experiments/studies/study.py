"""Studies: measurements of the pretrained models of one seed, without rounds. The result is rows of a CSV file."""

import io
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from experiments.summary import COLUMNS, Line, Paper, spread_lines
from fl.config import flatten
from fl.config.sections import SECTIONS
from fl.engines.accelerator import gpu_name
from fl.results.files import ResultsError, as_results_error, atomic_write, cell, config_text, csv_text, lock
from fl.results.merge import merge_configs, plain
from fl.results.versions import versions
from fl.workloads.resolve import Run, default_tables, resolve

Tick = Callable[[str, int, int], None]
"""Reports progress: ``tick(what, at, of)``."""
RUN_COLUMNS = ("experiment", "setting", "seed")
FILE = "study.csv"
Measured = Mapping[tuple[str, str], float]
"""{(method, metric): value} of one setting and seed."""


def prepared(run: Run, seed: int) -> object:
    """Prepare the pretrained models without training them. SettingsError, DataError: impossible."""
    return run.workload.prepare(seed)


def changed(run: Run, changes: Mapping[str, Any]) -> Run:
    """Return the run of a study with other values for some dotted keys."""
    return resolve(run.settings.changed(changes), study=True)


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        row: a dataclass of str, int and float fields, the columns of ``study.csv`` after experiment, setting and seed.
        measure: ``measure(run, seed, tick)`` gives the rows of one setting and seed; a pure function of both.
        metrics: computes the metrics of ``summary.csv`` from those rows (a frame).
        check: raises an error for an impossible setting; all settings are checked before the first is measured.
    """

    row: type
    measure: Callable[[Run, int, Tick], Iterable[Any]]
    metrics: Callable[[pd.DataFrame], Measured]
    check: Callable[[Run, int], object] = prepared


class StudyResults:
    """A study's folder, ``config.toml`` and ``study.csv``; the rows of a setting and seed are added all or none.

    Raises:
        ResultsError: the folder holds results of other settings or damaged files, another process writes to it, or it
            cannot be written.
    """

    def __init__(self, out: Path, study: Study, runs: Sequence[Run], overwrite: bool = False) -> None:
        first = runs[0].settings
        self.path, self.experiment = out / FILE, first.experiment
        self.columns = [*RUN_COLUMNS, *(field.name for field in fields(study.row))]
        config: dict[str, Any] = {
            "experiment": self.experiment,
            "seeds": first.seed_list,
            "methods": [],
            "settings": {run.settings.setting: plain(run.record()) for run in runs},
            "versions": [versions(gpu_name(first.accelerator))],
        }
        with as_results_error(f"write to '{out}'"):
            out.mkdir(parents=True, exist_ok=True)
        self.close = weakref.finalize(self, lock(out))
        try:
            with as_results_error(f"write to '{out}'"):
                if overwrite:
                    self.path.unlink(missing_ok=True)
                self._lines = self._read(study)
                if self._lines:
                    config = merge_configs(out, config, flatten(default_tables()), SECTIONS)
                atomic_write(out / "config.toml", config_text(config))
        except BaseException:
            self.close()
            raise

    def done(self, setting: str, seed: int) -> bool:
        """Return whether the folder holds the rows of a setting and seed."""
        return any(line[1:3] == [setting, str(seed)] for line in self._lines)

    def add(self, setting: str, seed: int, rows: Iterable[Any]) -> None:
        """Add the rows of a setting and seed. When this returns, they are on the disk."""
        self._lines += [[self.experiment, setting, str(seed), *map(cell, astuple(row))] for row in rows]
        with as_results_error(f"write to '{self.path}'"):
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
    """Read ``study.csv`` of a results folder.

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
        raise ResultsError(f"'{path}' has a line that cannot be read: {error}") from error
    raise ResultsError(f"'{path}' does not have the columns of this version; choose another folder")


def summarize_study(frame: pd.DataFrame, study: Study, paper: Paper | None = None) -> pd.DataFrame:
    """Summarize a study's rows, in the form of `experiments.summary.summarize`."""
    lines: list[Line] = []
    for (experiment, setting), of in frame.groupby(["experiment", "setting"], sort=False):
        runs = [study.metrics(rows) for _, rows in of.groupby("seed")]
        for method in dict.fromkeys(method for run in runs for method, _ in run):
            own = [{name: value for (of_, name), value in run.items() if of_ == method} for run in runs]
            names = dict.fromkeys(name for run in own for name in run)
            lines += spread_lines((experiment, setting, method), own, names, paper)
    return pd.DataFrame(lines, columns=list(COLUMNS))
