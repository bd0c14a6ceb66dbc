"""Studies: measurements of the pretrained models of one seed, without rounds. The result is rows of a CSV file."""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.analysis.summary import COLUMNS, Line, Paper, spread_lines
from fl.results.checks import Sums, read_checks, verify
from fl.results.files import ResultsError, whole_lines
from fl.results.reader import read_config, refuse_other_runs

if TYPE_CHECKING:
    from fl.workloads.resolve import Run  # loads torch, which tables and figures do not need

Tick = Callable[[str, int, int], None]
"""Reports progress: ``tick(what, at, of)``."""
RUN_COLUMNS = ("experiment", "setting", "seed")
FILE = "study.csv"
Measured = Mapping[tuple[str, str], float]
"""{(method, metric): value} of one setting and seed."""


def prepared(run: "Run", seed: int) -> object:
    """Prepare the pretrained models without training them. SettingsError, DataError: impossible."""
    return run.workload.prepare(seed)


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
    measure: "Callable[[Run, int, Tick], Iterable[Any]]"
    metrics: Callable[[pd.DataFrame], Measured]
    check: "Callable[[Run, int], object]" = prepared


def read_study(out: Path, study: Study) -> pd.DataFrame:
    """Read ``study.csv`` of a results folder.

    Raises:
        ResultsError: it is missing, damaged, changed or not of this version.
    """
    path = out / FILE
    if not path.is_file():
        raise ResultsError(f"'{path}' does not exist; run the experiment first")
    if checks := read_checks(out):
        verify(path, Sums(path, whole_lines(path), methods=False), checks)
    types = {"experiment": str, "setting": str, "seed": int} | {f.name: f.type for f in fields(study.row)}
    try:
        frame = pd.read_csv(io.StringIO(path.read_text(encoding="utf-8")), keep_default_na=False, na_values=[""])
        known = list(frame.columns) == list(types)
        frame = frame.astype(types if known else {})
    except ValueError as error:
        raise ResultsError(f"'{path}' has a line that cannot be read: {error}") from error
    if not known:
        raise ResultsError(f"'{path}' does not have the columns of this version; choose another folder")
    if (out / "config.toml").exists():
        runs = frame[["experiment", "setting", "seed"]].drop_duplicates().itertuples(index=False)
        refuse_other_runs(path, ((name, (setting, "", seed)) for name, setting, seed in runs), read_config(out))
    return frame


def summarize_study(frame: pd.DataFrame, study: Study, paper: Paper | None = None) -> pd.DataFrame:
    """Summarize a study's rows, in the form of `experiments.analysis.summary.summarize`."""
    lines: list[Line] = []
    for (experiment, setting), of in frame.groupby(["experiment", "setting"], sort=False):
        runs = [study.metrics(rows) for _, rows in of.groupby("seed")]
        for method in dict.fromkeys(method for run in runs for method, _ in run):
            own = [{name: value for (of_, name), value in run.items() if of_ == method} for run in runs]
            names = dict.fromkeys(name for run in own for name in run)
            lines += spread_lines((experiment, setting, method), own, names, paper)
    return pd.DataFrame(lines, columns=list(COLUMNS))
