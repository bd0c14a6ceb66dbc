"""The folder of a study, and the run of a study with other settings."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from experiments.studies.study import FILE, RUN_COLUMNS, Study, read_study
from fl.config import flatten
from fl.config.sections import SECTIONS
from fl.engines.accelerator import gpu_name
from fl.results.checks import CHECKSUMS, Sums, read_checks, write_checks
from fl.results.files import (
    ResultsError,
    as_results_error,
    atomic_write,
    cell,
    config_text,
    csv_text,
    lock,
    whole_lines,
)
from fl.results.merge import merge_configs, plain
from fl.results.versions import versions
from fl.workloads.resolve import Run, default_tables, resolve


def changed(run: Run, changes: Mapping[str, Any]) -> Run:
    """Return the run of a study with other values for some dotted keys."""
    return resolve(run.settings.changed(changes), study=True)


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
                    for path in (self.path, out / CHECKSUMS):
                        path.unlink(missing_ok=True)
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
        sums = Sums(self.path, whole_lines(self.path), methods=False)
        runs = {(line[1], "", int(line[2])) for line in self._lines}
        write_checks(self.path.parent, {(FILE, run): sums.of(run) for run in runs})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, study: Study) -> list[list[str]]:
        if not self.path.exists():
            if read_checks(self.path.parent):
                raise ResultsError(f"'{self.path}' is gone; restore it or start anew (--overwrite)")
            return []
        read_study(self.path.parent, study)
        frame: pd.DataFrame = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        return frame.to_numpy().tolist()
