"""The files of an experiment: what ran (``config.toml``) and one row per method, seed and round (``rounds.csv``).

A folder only ever grows: a run appends whole rows, marks itself finished, and a second run of the same config skips
what is finished. A process killed at any moment leaves files that read. Same numbers give the same bytes, so two runs
are compared with ``cmp`` (after dropping ``wall_s``, the only column a clock writes).
"""

import csv
import io
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from enum import Enum
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import tomli_w

from fl.config.settings import Settings
from fl.engines import accelerator

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[str, str] = {
    "experiment": "name of the experiment",
    "setting": "name of the setting, a [settings] table of config.toml",
    "method": "name of the method; '+ft' means fine-tuned on the device before it is scored",
    "seed": "seed of everything random in the run",
    "round": "round of the run, over all steps",
    "step": "step of the world: data drift when it changes",
    "devices": "devices that took part in the round",
    "failures": "devices of the round that gave no usable answer",
    "refused": "answers refused: not finite, mis-shaped, huge, not asked for, for another device or round",
    "withheld": "devices that trained but changed their model too little to upload it",
    "late": "updates that missed the deadline and were dropped; buffered: merged, but of an earlier round",
    "bytes_down": "bytes really sent to devices in the round, queries, also of those scored, and training",
    "bytes_up": "bytes really sent by devices in the round, queries, also of those scored, and training",
    "virtual_s": "virtual seconds since the run began, cumulative",
    "train_macs": "multiply-accumulates of local training in the round, all devices together",
    "memory_bytes": "largest training memory of a device of the round, also of local adaptation where that is scored",
    "divergence": "how far the updates disagree: 0 alike, 1 unrelated, 2 opposed; empty with fewer than two updates",
    "module_divergence": "the same over the blocks that can be cut into modules",
    "load_cv": "coefficient of variation of how many devices trained a module; empty for a method without modules",
    "evaluated": "devices scored after the round; 0 = none, and the cells up to forgetting are empty",
    "accuracy_mean": "mean over scored devices of the accuracy on their own current distribution, 0 to 1",
    "accuracy_std": "its standard deviation over scored devices",
    "accuracy_p10": "its 10th percentile over scored devices",
    "balanced_accuracy_mean": "mean over scored devices of the mean recall of the classes that a device has, 0 to 1",
    "loss": "mean over scored devices of the cross-entropy on their own current distribution, nats",
    "global_accuracy": "accuracy on the global test set, 0 to 1; empty for a method without a global model",
    "deliver_bytes": "mean bytes that bring the scored model to one device",
    "asked": "scored devices that the cloud sent a model; the others use what they hold",
    "adapt_s": "mean virtual seconds of a device in the step for the scored model: query, delivery, local training",
    "forgetting": "mean accuracy lost on the device's test draw of the step before; empty unless measure-forgetting",
    "wall_s": "seconds that the round really took; the only column that may differ between two runs of a seed",
}
DEVICE_COLUMNS: dict[str, str] = {
    "experiment": COLUMNS["experiment"],
    "setting": COLUMNS["setting"],
    "method": COLUMNS["method"],
    "seed": COLUMNS["seed"],
    "round": COLUMNS["round"],
    "step": COLUMNS["step"],
    "device": "index of the device",
    "device_class": "its hardware profile",
    "samples": "test samples that scored it",
    "accuracy": "accuracy on its own current distribution, 0 to 1",
    "balanced_accuracy": "mean recall of the classes that it has, 0 to 1",
    "deliver_bytes": "bytes that bring the scored model to it",
    "share": "fraction of the cloud model's parameters that it uses, 0 to 1",
    "macs": "multiply-accumulates of one forward pass of one sample",
    "adapt_s": "virtual seconds of the device in the step for the scored model: query, delivery, local training",
}
MEASURE_COLUMNS: dict[str, str] = {
    **{name: COLUMNS[name] for name in ("experiment", "setting", "method", "seed", "round", "step")},
    "measure": "what the workload measures, see `MEASURES` in its module",
    "value": "mean over the devices that trained in the round, by their examples, or over the devices scored after it",
}
FILES = (
    "rounds.csv",
    "study.csv",
    "devices.csv",
    "measures.csv",
    "summary.csv",
    "table.md",
    "figure.png",
    "figure.svg",
    "config.toml",
)
DEFAULTS = Settings.parse({}).resolved()
CHECKPOINTS = "checkpoints"  # folder of what an unfinished run needs to go on, see `fl.server.checkpoint`

Run = tuple[str, str, int]  # (setting, method, seed)
RowKey = tuple[str, str, int, int]  # (setting, method, seed, round): one row each
NAN = math.nan


class ResultsError(ValueError):
    """Results cannot be written or read; the message is one sentence for the user."""


@dataclass(frozen=True)
class Row:
    """One line of ``rounds.csv``; ``COLUMNS`` says what each field means. NaN is an empty cell."""

    experiment: str
    setting: str
    method: str
    seed: int
    round: int
    step: int
    devices: int = 0
    failures: int = 0
    refused: int = 0
    withheld: int = 0
    late: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    virtual_s: float = 0.0
    train_macs: int = 0
    memory_bytes: int = 0
    divergence: float = NAN
    module_divergence: float = NAN
    load_cv: float = NAN
    evaluated: int = 0
    accuracy_mean: float = NAN
    accuracy_std: float = NAN
    accuracy_p10: float = NAN
    balanced_accuracy_mean: float = NAN
    loss: float = NAN
    global_accuracy: float = NAN
    deliver_bytes: float = NAN
    asked: int = 0
    adapt_s: float = NAN
    forgetting: float = NAN
    wall_s: float = 0.0


@dataclass(frozen=True)
class DeviceRow:
    """One line of ``devices.csv``; ``DEVICE_COLUMNS`` says what each field means."""

    experiment: str
    setting: str
    method: str
    seed: int
    round: int
    step: int
    device: int
    device_class: str
    samples: int
    accuracy: float
    balanced_accuracy: float
    deliver_bytes: float
    share: float
    macs: float
    adapt_s: float


@dataclass(frozen=True)
class MeasureRow:
    """One line of ``measures.csv``; ``MEASURE_COLUMNS`` says what each field means."""

    experiment: str
    setting: str
    method: str
    seed: int
    round: int
    step: int
    measure: str
    value: float


AnyRow = TypeVar("AnyRow", Row, DeviceRow, MeasureRow)


class ResultsWriter:
    """Writes one experiment's folder; open it once, when the experiment starts, with all its settings.

    ``settings`` maps a setting's name to its resolved values, without what a row names (method, seed) and without what
    cannot change a number (paths, worker counts): the same names with other values are another experiment, and refused.
    New settings, seeds and methods extend the folder. ``overwrite`` starts it anew.
    ``made`` says what makes or made the rows, as `versions` does; by default that of this process.

    Example::

        with ResultsWriter(out, "table1", {"m=2": {...}, "m=5": {...}}, seeds=[0, 1], methods=["fedavg"]) as results:
            if ("m=2", "fedavg", 0) not in results.done():
                results.rewind("m=2", "fedavg", 0)  # or after the round of a checkpoint
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
    ) -> None:
        # `flwr run` starts the ServerApp in a folder of its own, where a relative path would be lost.
        if not out.is_absolute():
            raise ResultsError(f"results folder '{out}' is relative; give an absolute path")
        if out.is_file():
            raise ResultsError(f"'{out}' is a file; results need a folder")
        self.out = out
        config: dict[str, Any] = {
            "experiment": experiment,
            "seeds": [int(seed) for seed in seeds],
            "methods": list(methods),
            "settings": _plain(settings),
            "finished": {},
            "versions": [dict(one) for one in made] or [versions()],
        }
        self._devices: _Table | None = None  # made by the first row
        self._measures: _Table | None = None  # likewise
        with told(f"write results to '{out}'"):
            out.mkdir(parents=True, exist_ok=True)
            self._unlock = weakref.finalize(self, lock(out))
            foreign = not (out / "config.toml").exists()
            try:
                self._config = self._open(config, overwrite)
                self._write_config()
                self._rounds = _Table(out / "rounds.csv", Row)
                self._written = {_key(line) for line in self._rounds.lines()}
            except BaseException:
                if foreign:  # a folder that is refused stays as it was
                    (out / "config.toml").unlink(missing_ok=True)
                self._unlock()
                raise

    def append(self, rows: Iterable[Row]) -> None:
        """Append whole rows to ``rounds.csv``; when this returns they are on the disk."""
        rows = self._known(rows)
        keys = [(row.setting, row.method, int(row.seed), int(row.round)) for row in rows]
        for i, key in enumerate(keys):
            if key in self._written or key in keys[:i]:
                raise ResultsError(f"'{self.out}' already has the row of {key}; rewind the run to write it again")
        self._rounds.append(rows)
        self._written.update(keys)

    def append_devices(self, rows: Iterable[DeviceRow]) -> None:
        """Append whole rows to ``devices.csv``, which the first call makes."""
        self._devices = self._devices or _Table(self.out / "devices.csv", DeviceRow)
        self._devices.append(self._known(rows))

    def append_measures(self, rows: Iterable[MeasureRow]) -> None:
        """Append whole rows to ``measures.csv``, which the first row makes."""
        if rows := self._known(rows):
            self._measures = self._measures or _Table(self.out / "measures.csv", MeasureRow)
            self._measures.append(rows)

    def finish(self, setting: str, method: str, seed: int) -> None:
        """Mark a run's rows as complete."""
        if (setting, method, seed) not in self.done():
            seeds = self._config["finished"].setdefault(setting, {}).setdefault(method, [])
            seeds[:] = sorted([*seeds, int(seed)])
            self._write_config()

    def done(self) -> set[Run]:
        """The finished runs; whatever else ``rounds.csv`` holds was cut short."""
        return set(finished(self._config))

    def last_round(self, setting: str, method: str, seed: int) -> int:
        """The round up to which every row of a run is there; 0: there is none."""
        round_ = 0
        while (setting, method, seed, round_ + 1) in self._written:
            round_ += 1
        return round_

    def rewind(self, setting: str, method: str, seed: int, round: int = -1) -> None:
        """Drop a run's rows after ``round`` (by default all) and its finished mark, to run it again from there."""
        run = (setting, method, int(seed))

        def dropped(key: RowKey) -> bool:
            return key[:3] == run and key[3] > round

        # The mark goes first: killed in between, the run is unfinished with spare rows, never finished with too few.
        if run in self.done():
            self._config["finished"][setting][method].remove(run[2])
            self._write_config()
        if self._devices is None and (self.out / "devices.csv").exists():
            self._devices = _Table(self.out / "devices.csv", DeviceRow)
        if self._measures is None and (self.out / "measures.csv").exists():
            self._measures = _Table(self.out / "measures.csv", MeasureRow)
        for table in (self._rounds, self._devices, self._measures):
            if table is not None:
                table.drop(lambda line: dropped(_key(line)))
        self._written = {key for key in self._written if not dropped(key)}

    def close(self) -> None:
        """Close the files and let another process write here."""
        for table in (self._rounds, self._devices, self._measures):
            if table is not None:
                table.close()
        self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, config: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        """The folder's config with this one added."""
        if overwrite:
            for name in FILES:
                (self.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.out / CHECKPOINTS, ignore_errors=True)
        refuse_beside(self.out, "study.csv")
        rounds = self.out / "rounds.csv"
        holds_rows = rounds.exists() and len(_whole_lines(rounds)) > 1
        try:
            return merged(self.out, config) if holds_rows or (self.out / "config.toml").exists() else config
        except ResultsError:
            # Without rows there is nothing to protect: a run that failed at its start may be corrected and repeated.
            if holds_rows:
                raise
            return config

    def _write_config(self) -> None:
        with told(f"write '{self.out / 'config.toml'}'"):
            atomic_write(self.out / "config.toml", config_text(self._config))

    def _known(self, rows: Iterable[AnyRow]) -> list[AnyRow]:
        rows = list(rows)
        for row in rows:
            if row.experiment != self._config["experiment"] or row.setting not in self._config["settings"]:
                raise ResultsError(f"'{row.experiment}', setting '{row.setting}' is not in the config of '{self.out}'")
        return rows


def refuse_beside(out: Path, other: str) -> None:
    """A folder holds the rows of methods or those of a study: the summary of one would replace that of the other.

    Raises:
        ResultsError: ``other`` is there.
    """
    if (out / other).exists():
        raise ResultsError(f"'{out}' holds results of another kind of experiment ({other}); choose another folder")


def read_rounds(out: Path) -> "pd.DataFrame":
    """``rounds.csv`` of a results folder, one row per method, seed and round; a torn last line is left out."""
    return _read(out / "rounds.csv", Row)


def read_devices(out: Path) -> "pd.DataFrame":
    """``devices.csv`` of a results folder, one row per device scored."""
    return _read(out / "devices.csv", DeviceRow)


def read_measures(out: Path) -> "pd.DataFrame":
    """``measures.csv`` of a results folder, one row per method, seed, round and measure."""
    return _read(out / "measures.csv", MeasureRow)


def read_config(out: Path) -> dict[str, Any]:
    """``config.toml`` of a results folder: experiment, seeds, methods, finished, versions, settings."""
    try:
        return tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"'{out}' has no readable config.toml beside its results: {error}") from error


def finished(config: Mapping[str, Any]) -> list[Run]:
    """The complete runs of a results folder, by its config."""
    marks = config["finished"].items()
    return [(setting, method, seed) for setting, of in marks for method, seeds in of.items() for seed in seeds]


def config_text(config: Mapping[str, Any]) -> str:
    """``config.toml`` as text; a list of plain values fits on one line."""
    return re.sub(r"\[\n((?:    [^\[\]{}\n]+,\n)+)\]", _one_line, tomli_w.dumps(config))


def versions(settings: Settings | None = None) -> dict[str, str]:
    """What made the numbers: versions of driftfed and what it stands on, the GPU, and the commit of a checkout.

    Raises:
        SettingsError: the settings ask for a GPU, and there is none.
    """
    names = ("torch", "flwr", "numpy")
    found = {"driftfed": _own_version(), "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in names}
    if settings is not None and settings.accelerator != "cpu":
        found["gpu"] = accelerator.name(settings)
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: readers see the old one or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """Lines of a CSV file; floats at 10 significant digits, NaN empty: same numbers, same bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in line] for line in lines)
    return text.getvalue()


def cell(value: object) -> str:
    """A value as the text of a CSV cell, the same for Python's and numpy's numbers."""
    if isinstance(value, str):
        if "\n" in value or "\r" in value:  # a line is a row: that is how a torn one is told
            raise ResultsError(f"a cell cannot hold a line break: {value!r}")
        return value
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{float(value):.10g}"
    raise ResultsError(f"a cell cannot hold {value!r}")


class _Table:
    """A CSV file that grows by whole rows."""

    def __init__(self, path: Path, kind: type[Row] | type[DeviceRow] | type[MeasureRow]) -> None:
        self.path = path
        self.columns = [field.name for field in fields(kind)]
        lines = _whole_lines(path) if path.exists() else []
        if lines and next(csv.reader(lines)) != self.columns:
            raise ResultsError(f"'{path}' has other columns than this version writes; choose another folder")
        self._rewrite(lines or [csv_text([self.columns])])  # without a torn last line

    def append(self, rows: Sequence[Row] | Sequence[DeviceRow] | Sequence[MeasureRow]) -> None:
        data = csv_text([_typed(row) for row in rows]).encode()
        end = self._file.seek(0, os.SEEK_END)
        with told(f"append to '{self.path}'"):
            try:
                if self._file.write(data) != len(data):
                    raise OSError("the disk took only part of the rows")
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(end)
                raise

    def lines(self) -> Iterator[dict[str, str]]:
        """The cells of each row by column."""
        for line in csv.reader(_whole_lines(self.path)[1:]):
            if len(line) != len(self.columns):
                raise ResultsError(f"'{self.path}' has a line of {len(line)} cells instead of {len(self.columns)}")
            yield dict(zip(self.columns, line, strict=True))

    def drop(self, dropped: Callable[[dict[str, str]], bool]) -> None:
        header, *lines = _whole_lines(self.path)
        kept = [line for line, cells in zip(lines, self.lines(), strict=True) if not dropped(cells)]
        if len(kept) < len(lines):
            self.close()
            self._rewrite([header, *kept])

    def close(self) -> None:
        self._file.close()

    def _rewrite(self, lines: list[str]) -> None:
        with told(f"write '{self.path}'"):
            atomic_write(self.path, "".join(lines))
        self._file = self.path.open("ab", buffering=0)  # unbuffered: one append is one write


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn the system's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"cannot {what}: {error.strerror or error}; the same command goes on when that is mended"
        ) from error


def _one_line(found: re.Match[str]) -> str:
    return "[" + found[1].strip(" ,\n").replace(",\n    ", ", ") + "]"


def _typed(row: Row | DeviceRow | MeasureRow) -> list[object]:
    """Values as their columns' types: 3, 3.0 and numpy's 3 are the same bytes."""
    values: list[object] = []
    for field in fields(row):
        value = getattr(row, field.name)
        if field.type is int and not float(value).is_integer():
            raise ResultsError(f"column '{field.name}' holds whole numbers, not {value!r}")
        values.append(int(value) if field.type is int else float(value) if field.type is float else value)
    return values


def _key(line: Mapping[str, str]) -> RowKey:
    return line["setting"], line["method"], int(line["seed"]), int(line["round"])


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file with their ends; what follows the last line end was cut off in mid-write."""
    text = path.read_bytes()
    try:
        return [line + "\n" for line in text[: text.rfind(b"\n") + 1].decode().split("\n")[:-1]]
    except UnicodeDecodeError as error:
        raise ResultsError(f"'{path}' is damaged, it is not text: put it back or choose another folder") from error


def _read(path: Path, kind: type[Row] | type[DeviceRow] | type[MeasureRow]) -> "pd.DataFrame":
    import pandas as pd  # a third of a second, and a run that is made reads none

    if not path.is_file():
        raise ResultsError(f"'{path}' does not exist; run the experiment first")
    columns = {field.name: field.type for field in fields(kind)}
    lines = _whole_lines(path)
    header = next(csv.reader(lines), [])
    if header != list(columns):
        odd = ", ".join(sorted(set(header) ^ set(columns))) or "their order"
        raise ResultsError(f"'{path}' does not have the columns of this version (check {odd})")
    try:
        return pd.read_csv(
            io.StringIO("".join(lines)),
            dtype=columns,
            keep_default_na=False,  # or a method or setting called 'NA' would be a missing number
            na_values={name: [""] for name, of in columns.items() if of is float},
        )
    except ValueError as error:
        raise ResultsError(f"'{path}' has a line that does not read: {error}") from error


def merged(out: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The config of a folder that holds rows, extended by a new run's; refused where the two disagree."""
    old = read_config(out)
    if missing := [key for key in new if key not in old]:
        raise ResultsError(f"'{out / 'config.toml'}' has no '{missing[0]}'; overwrite it or choose another folder")
    common = {name: setting for name, setting in new["settings"].items() if name in old["settings"]}
    # a key that is younger than the folder did there what its default does
    younger = {
        name: {key: DEFAULTS[key] for key in setting.keys() & DEFAULTS.keys()} | old["settings"][name]
        for name, setting in common.items()
    }
    was, now = (
        _flat({"experiment": c["experiment"], "settings": settings}) for c, settings in ((old, younger), (new, common))
    )
    for name in [*was, *now]:
        if was.get(name) != now.get(name):
            change = f"{name} was {was.get(name, 'not set')}, is {now.get(name, 'not set')}"
            raise ResultsError(
                f"'{out}' holds results of another config ({change}); give this one a name of its own (--set "
                "setting=NAME), start anew (--overwrite) or choose another folder"
            )
    lists = {key: old[key] + [v for v in new[key] if v not in old[key]] for key in ("seeds", "methods", "versions")}
    return {**old, **lists, "settings": {**old["settings"], **new["settings"]}}


def _plain(value: object) -> Any:
    """``value`` as TOML can say it. TOML has no null: None is left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise ResultsError(f"config.toml cannot hold {value!r}")


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted name -> value as text; text so that NaN equals itself."""
    flat: dict[str, str] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": repr(value)}
    return flat


def _own_version() -> str:
    """Under ``flwr run`` the code runs from Flower's copy of it: the pyproject.toml beside it knows, pip does not."""
    beside = Path(__file__).parents[2] / "pyproject.toml"
    if beside.is_file():
        return str(tomllib.loads(beside.read_text(encoding="utf-8"))["project"]["version"])
    return metadata.version("driftfed")


def _commit() -> str | None:
    """Commit of the checkout that this file is tracked in, with '-dirty' where code differs from it; else None."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "fl/results/files.py")  # not a copy installed below somebody else's checkout
        # Results are left out: an experiment that rewrites them must not make the next one look modified.
        dirty = git("status", "--porcelain", "--", ".", ":!results", ":!docs", ":!tests")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


def lock(out: Path) -> Callable[[], None]:
    """Hold the folder for this process: a second writer would repair a line that the first is just writing."""
    if sys.platform == "win32":
        return lambda: None
    import fcntl

    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ResultsError(f"another run is writing to '{out}'; wait for it or choose another folder") from error
    except OSError:  # a file system without locks
        pass
    return partial(os.close, handle)
