"""What a results folder holds: its config, its rows and their summary, in the order of its experiment."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from experiments.analysis.paired import margins_of, of_runs
from experiments.analysis.rounds_to_target import with_shifts
from experiments.analysis.summary import in_order, summarize
from experiments.analysis.sweeps import swept_keys
from experiments.catalog import EXPERIMENTS, OTHER, Experiment
from experiments.studies import STUDIES
from experiments.studies.study import FILE, read_study, summarize_study
from fl.results.reader import read_config, read_devices, read_measures, read_rounds
from partitions import lookup


@dataclass(frozen=True)
class Recorded:
    """The contents of a results folder.

    Args:
        config: ``config.toml``; empty if the folder has none.
        rows: of ``rounds.csv`` or, of a study, of ``study.csv``.
        measures: rows of ``measures.csv``; None: there is no such file.
        summary: the rows of ``summary.csv``, without margins; margins: those of the experiment, may be empty.
    """

    folder: Path
    experiment: Experiment
    config: dict[str, Any]
    rows: pd.DataFrame
    measures: pd.DataFrame | None
    summary: pd.DataFrame
    margins: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder and compute the summary.

        Raises:
            ResultsError: a file is missing, damaged or of another version.
        """
        config, margins = read_config(folder) if (folder / "config.toml").exists() else {}, pd.DataFrame()
        if (folder / FILE).exists():
            studies = {name: experiment for name, experiment in EXPERIMENTS.items() if experiment.study}
            experiment = lookup("study", config.get("experiment", ""), studies)
            study = STUDIES[experiment.study]
            rows = read_study(folder, study)
            summary = summarize_study(rows, study, experiment.paper)
            return cls(folder, experiment, config, rows, None, summary, margins)
        rows = read_rounds(folder)
        experiment = EXPERIMENTS.get(str(rows["experiment"].iloc[0]) if len(rows) else "", OTHER)
        if config:
            rows = in_order(rows, experiment.order(rows["setting"].unique()), config.get("methods", []))
            rows = with_shifts(rows, config.get("settings", {}))
        if swept_keys(config.get("settings", {})) and not experiment.sweep:
            experiment = replace(experiment, plot="sweep", sweep=True)
        measures = read_measures(folder) if (folder / "measures.csv").exists() else None
        summary = summarize(rows, experiment.paper, experiment.sweep, measures)
        if experiment.margins:
            margins = margins_of(experiment.margins, of_runs(rows), experiment.paper)
        return cls(folder, experiment, config, rows, measures, summary, margins)

    @cached_property
    def devices(self) -> pd.DataFrame | None:
        """Return the rows of ``devices.csv``, which only the page needs; None: there is no such file."""
        return read_devices(self.folder) if (self.folder / "devices.csv").exists() else None
