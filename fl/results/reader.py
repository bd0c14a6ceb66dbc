"""Read the files of a results folder. A file that a run is still writing can be read, too."""

import csv
import io
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from fl.results.checks import Sums, read_checks, verify
from fl.results.files import ResultsError, whole_lines
from fl.results.rows import DeviceRow, MeasureRow, Row, Run, TableRow, column_types, columns_of
from partitions.errors import one_line

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("setting", "method", "seed", "round")  # of which each row of rounds.csv is the only one


class _Config(TypedDict):
    """What ``config.toml`` holds."""

    experiment: str
    seeds: list[int]
    methods: list[str]
    settings: dict[str, dict[str, Any]]
    versions: list[dict[str, Any]]
    finished: NotRequired[dict[str, dict[str, list[int]]]]


CONFIG = TypeAdapter(_Config)


def read_rounds(out: Path) -> "pd.DataFrame":
    """Read ``rounds.csv`` of a results folder: one row per method, seed and round.

    Raises:
        ResultsError: the file is missing, damaged or of another version. The other readers raise it likewise.
    """
    return _read(out / "rounds.csv", Row)


def read_devices(out: Path) -> "pd.DataFrame":
    """Read ``devices.csv`` of a results folder: one row per evaluated device."""
    return _read(out / "devices.csv", DeviceRow)


def read_measures(out: Path) -> "pd.DataFrame":
    """Read ``measures.csv`` of a results folder: one row per method, seed, round and measure."""
    return _read(out / "measures.csv", MeasureRow)


def read_config(out: Path) -> dict[str, Any]:
    """Read ``config.toml`` of a results folder: experiment, seeds, methods, finished, versions, settings."""
    try:
        config = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
        CONFIG.validate_python(config, strict=True)
        return config
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultsError(f"'{out / 'config.toml'}' is damaged ({where}: {first['msg']}); restore it") from error
    except (OSError, ValueError) as error:
        raise ResultsError(f"'{out}' has no readable config.toml beside its results: {error}") from error


def refuse_other_runs(path: Path, runs: Iterable[tuple[str, Run]], config: Mapping[str, Any]) -> None:
    """Compare the runs of a table, each with the name of its experiment, with the config of its folder.

    Raises:
        ResultsError: a row belongs to no run of the folder, or ``rounds.csv`` has no row of a finished run.
    """
    found = set()
    for experiment, run in runs:
        setting, method, seed = run
        known = experiment == config["experiment"] and setting in config["settings"]
        if not (known and method in (config["methods"] or [""]) and seed in config["seeds"]):
            of = f"method '{method}', " if method else ""
            raise ResultsError(
                f"'{path}' has a row of no run of this folder ({experiment}, setting '{setting}', {of}seed {seed}); "
                "restore the file or start anew (--overwrite)"
            )
        found.add(run)
    if path.name == "rounds.csv" and (lost := sorted({*finished(config)} - found)):
        setting, method, seed = lost[0]
        raise ResultsError(
            f"'{path}' has no row of {method} (setting '{setting}', seed {seed}), which is finished; restore the file "
            "or start anew (--overwrite)"
        )


def finished(config: Mapping[str, Any]) -> list[Run]:
    """Return the finished runs of a results folder, given its config."""
    marks = config.get("finished", {}).items()
    return [(setting, method, seed) for setting, of in marks for method, seeds in of.items() for seed in seeds]


def _read(path: Path, kind: type[TableRow]) -> "pd.DataFrame":
    import pandas as pd  # takes a third of a second, and a process that only writes does not need it

    if not path.is_file():
        raise ResultsError(f"'{path}' does not exist; run the experiment first")
    columns, checks, lines = column_types(kind), read_checks(path.parent), whole_lines(path)
    header = next(csv.reader(lines), [])
    if not columns_of(header, kind):
        odd = ", ".join(sorted(set(header) ^ set(columns))) or "their order"
        raise ResultsError(f"'{path}' does not have the columns of this version (check {odd})")
    if checks:
        verify(path, Sums(path, lines), checks)
    try:
        frame = pd.read_csv(
            io.StringIO("".join(lines)),
            dtype=columns,
            keep_default_na=False,  # by default, pandas reads a method or setting named 'NA' as a missing number
            na_values={name: [""] for name, of in columns.items() if of is float},
        )
    except (ValueError, OverflowError) as error:
        raise ResultsError(f"'{path}' has a line that cannot be read: {one_line(error)}") from error
    missing = {field.name: field.default for field in fields(kind) if field.name not in header}
    frame = frame.assign(**missing)[list(columns)]
    keys = [*KEYS, *(name for name in ("device", "measure") if name in columns)]
    if len(twice := frame[frame.duplicated(keys)]):
        row = ", ".join(f"{key} {value}" for key, value in twice[keys].iloc[0].items())
        raise ResultsError(f"'{path}' has a row twice ({row}); remove one of them")
    if (path.parent / "config.toml").exists():
        runs = frame[["experiment", "setting", "method", "seed"]].drop_duplicates().itertuples(index=False)
        refuse_other_runs(path, ((experiment, tuple(run)) for experiment, *run in runs), read_config(path.parent))
    return frame
