"""Runs of one experiment that were made apart, by seeds, settings or methods on several machines, in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fl.results import (
    DeviceRow,
    MeasureRow,
    ResultsError,
    ResultsWriter,
    Row,
    Run,
    read_config,
    read_devices,
    read_measures,
    read_rounds,
    refuse_beside,
)


def merge(folders: Sequence[Path], out: Path) -> None:
    """Add the complete runs of ``folders`` to ``out``, which may be new. Cut short, it can be done again.

    Raises:
        ResultsError: two hold the same run and differ in it, one holds no complete run, or their configs differ.
    """
    for folder in folders:
        refuse_beside(folder, "study.csv")
        config, rounds = read_config(folder), read_rounds(folder)
        runs = complete(config)
        if not runs:
            raise ResultsError(f"'{folder}' holds no complete run; finish it first")
        devices = read_devices(folder) if (folder / "devices.csv").exists() else rounds[:0]
        measures = read_measures(folder) if (folder / "measures.csv").exists() else rounds[:0]
        what = (config["experiment"], config["settings"], config["seeds"], config["methods"])
        with ResultsWriter(out, *what, made=config["versions"]) as results:
            there, done = read_rounds(out), results.done()
            for run in runs:
                rows = _of(rounds, run)
                if run in done:
                    if _of(there, run).equals(rows):
                        continue  # merged before
                    raise ResultsError(
                        f"'{out}' holds another run of {run[1]}, {run[0]}, seed {run[2]} than '{folder}'"
                    )
                results.rewind(*run)
                results.append([Row(**row) for row in _records(rows)])
                if len(own := _of(devices, run)):
                    results.append_devices([DeviceRow(**row) for row in _records(own)])
                results.append_measures([MeasureRow(**row) for row in _records(_of(measures, run))])
                results.finish(*run)


def complete(config: dict[str, Any]) -> list[Run]:
    """The complete runs of a folder."""
    finished = config["finished"].items()
    return [(setting, method, seed) for setting, of in finished for method, seeds in of.items() for seed in seeds]


def _of(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    setting, method, seed = run
    chosen = (rows["setting"] == setting) & (rows["method"] == method) & (rows["seed"] == seed)
    return rows[chosen].reset_index(drop=True)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.to_dict("records")
