"""Merge results folders of one experiment, e.g. seeds, settings or methods that ran on several machines."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from fl.config import Settings, flatten
from fl.config.sections import SECTIONS
from fl.results.checks import read_checks
from fl.results.files import ResultsError, refuse_beside
from fl.results.reader import finished, read_config, read_devices, read_measures, read_rounds
from fl.results.rows import DeviceRow, MeasureRow, Row, Run
from fl.results.writer import ResultsWriter

R = TypeVar("R", Row, DeviceRow, MeasureRow)


def merge(folders: Sequence[Path], out: Path, replace: bool = False) -> None:
    """Add the complete runs of ``folders`` to ``out``, which may be new. After an interruption, call it again.

    Args:
        replace: whether a run replaces the same run of ``out`` if their rows differ.

    Raises:
        ResultsError: a folder has no complete run, the configs differ, or, without ``replace``, a run exists in two
            folders with different rows.
    """
    for folder in folders:
        refuse_beside(folder, "study.csv")
        config, rounds = read_config(folder), read_rounds(folder)
        if not (runs := finished(config)):
            raise ResultsError(f"'{folder}' has no complete run; finish one first: run its experiment again")
        tables = {file for file, _ in read_checks(folder)}
        devices, measures = (
            read(folder) if name in tables or (folder / name).exists() else rounds[:0]
            for name, read in {"devices.csv": read_devices, "measures.csv": read_measures}.items()
        )
        what = (config["experiment"], config["settings"], config["seeds"], config["methods"])
        defaults = flatten(Settings().complete())
        with ResultsWriter(out, *what, made=config["versions"], defaults=defaults, general=SECTIONS) as results:
            existing, done = read_rounds(out), results.done()
            for run in runs:
                if run in done:
                    if _of(existing, run).equals(_of(rounds, run)):
                        continue  # merged before
                    if not replace:
                        raise ResultsError(
                            f"'{out}' and '{folder}' have different rows of {run[1]}, {run[0]}, seed {run[2]}; use "
                            f"--replace to take those of '{folder}'"
                        )
                results.rewind(*run)
                results.append(_rows(Row, rounds, run))
                if device_rows := _rows(DeviceRow, devices, run):
                    results.append_devices(device_rows)
                results.append_measures(_rows(MeasureRow, measures, run))
                results.finish(*run)


def _of(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    setting, method, seed = run
    chosen = (rows["setting"] == setting) & (rows["method"] == method) & (rows["seed"] == seed)
    return rows[chosen].reset_index(drop=True)


def _rows(kind: type[R], table: pd.DataFrame, run: Run) -> list[R]:
    return [kind(**row) for row in _of(table, run).to_dict("records")]
