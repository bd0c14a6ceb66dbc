"""Runs of one experiment that were made apart, by seeds, settings or methods on several machines, in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from fl.results.files import (
    DeviceRow,
    MeasureRow,
    ResultsError,
    ResultsWriter,
    Row,
    Run,
    finished,
    read_config,
    read_devices,
    read_measures,
    read_rounds,
    refuse_beside,
)

R = TypeVar("R", Row, DeviceRow, MeasureRow)


def merge(folders: Sequence[Path], out: Path, replace: bool = False) -> None:
    """Add the complete runs of ``folders`` to ``out``, which may be new. Cut short, it can be done again.

    Args:
        replace: a run takes the place of the same one with other rows, which is refused otherwise.

    Raises:
        ResultsError: two hold the same run and differ in it, one holds no complete run, or their configs differ.
    """
    for folder in folders:
        refuse_beside(folder, "study.csv")
        config, rounds = read_config(folder), read_rounds(folder)
        if not (runs := finished(config)):
            raise ResultsError(f"'{folder}' holds no complete run; finish it first")
        devices = read_devices(folder) if (folder / "devices.csv").exists() else rounds[:0]
        measures = read_measures(folder) if (folder / "measures.csv").exists() else rounds[:0]
        what = (config["experiment"], config["settings"], config["seeds"], config["methods"])
        with ResultsWriter(out, *what, made=config["versions"]) as results:
            there, done = read_rounds(out), results.done()
            for run in runs:
                if run in done:
                    if _of(there, run).equals(_of(rounds, run)):
                        continue  # merged before
                    if not replace:
                        raise ResultsError(
                            f"'{out}' holds another run of {run[1]}, {run[0]}, seed {run[2]} than '{folder}'; "
                            "--replace takes the latter"
                        )
                results.rewind(*run)
                results.append(_rows(Row, rounds, run))
                if own := _rows(DeviceRow, devices, run):
                    results.append_devices(own)
                results.append_measures(_rows(MeasureRow, measures, run))
                results.finish(*run)


def _of(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    setting, method, seed = run
    chosen = (rows["setting"] == setting) & (rows["method"] == method) & (rows["seed"] == seed)
    return rows[chosen].reset_index(drop=True)


def _rows(kind: type[R], table: pd.DataFrame, run: Run) -> list[R]:
    return [kind(**row) for row in _of(table, run).to_dict("records")]
