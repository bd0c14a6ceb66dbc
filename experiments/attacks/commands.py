"""Runs of the command line as processes that can be killed, and what is left of them."""

import csv
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.attacks import SMALL
from fl.results.files import CHECKPOINTS

PROJECT = Path(__file__).resolve().parents[2]
MARK = "DRIFTFED_ATTACK"  # environment variable by which a command and all processes that it starts are found
GRACE_S = 20.0  # within which the processes of a killed command must end
LONGEST_S = 300.0  # of a command that is not killed


@dataclass(frozen=True)
class Process:
    """A process of a command: its id, that of its parent, and its command line."""

    pid: int
    parent: int
    line: str


class Command:
    """A running ``python -m experiments ...`` in a session of its own.

    Args:
        arguments: after ``experiments``; folder: where its caches and its log lie; log: the name of the latter.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, log: str = "log"):
        self.mark, self.log = uuid.uuid4().hex, folder / log
        folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        environment = {MARK: self.mark, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(PROJECT)}
        with self.log.open("wb") as output:
            self.main = subprocess.Popen(
                [sys.executable, "-m", "experiments", *arguments],
                env=os.environ | environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
                cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def processes(self) -> list[Process]:
        """Return the processes of this command that run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended, or is of another user
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if state not in "ZX":
                        found.append(Process(int(folder.name), int(parent), line))
        return found

    def wait(self) -> tuple[int, str, float]:
        """Wait for the end; return the exit status, what was printed, and the seconds it took."""
        try:
            code = self.main.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            code = -1
            self.end()
        return code, self.log.read_text(errors="replace"), time.monotonic() - self.started

    def kill(self, process: int | None = None) -> None:
        """Send SIGKILL to one of the processes; None: the command itself."""
        with suppress(ProcessLookupError):
            os.kill(process or self.main.pid, signal.SIGKILL)
        if process in (None, self.main.pid):
            self.main.wait()

    def left(self) -> list[Process]:
        """Return the processes that outlive the command by more than the grace period, and end them."""
        end = time.monotonic() + GRACE_S
        while (found := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        self.end()
        return found

    def end(self) -> None:
        """Kill all processes of the command."""
        for process in self.processes():
            self.kill(process.pid)
        self.main.wait()


def run_arguments(out: Path, engine: str, workers: int, changes: Mapping[str, object]) -> list[str]:
    """Return the arguments of a small run of two methods."""
    values = {**SMALL, "strategies": "fedavg,la", "rounds": 12, **changes}
    keys = [f"--set={key}={value}" for key, value in values.items()]
    return ["run", "main", f"--engine={engine}", f"--workers={workers}", "--seeds=1", f"--out={out}", *keys]


def sentence(text: str) -> str:
    """Return the fault of what a command printed that ended with an error: empty if it is one sentence for the user."""
    if "Traceback" in text:
        return f"a traceback: {text.strip().splitlines()[-1]}"
    return "" if "error: " in text else f"no error is named: {text.strip()[-200:]}"


def tables(out: Path) -> dict[str, list[list[str]]]:
    """Return the rows of the CSV files of a results folder, without the columns of the wall clock."""
    found = {}
    for path in sorted(out.glob("*.csv")):
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if path.name != "checksums.csv":  # of the bytes, in which the clock is
            keep = [at for at, name in enumerate(header) if name != "wall_s"]
            found[path.name] = [[row[at] for at in keep] for row in [header, *rows]]
    return found


def difference(out: Path, whole: Path, clients: Path) -> str:
    """Return what distinguishes a completed folder from that of a run that was not attacked, empty if nothing does.

    Args:
        clients: folder in which clients kept their models, where nothing may be left.
    """
    mine, other = tables(out), tables(whole)
    if mine.keys() != other.keys():
        return f"its tables are {', '.join(mine)}"
    for name, rows in other.items():
        if len(mine[name]) != len(rows):
            return f"{name} has {len(mine[name])} lines instead of {len(rows)}"
        for at, (a, b) in enumerate(zip(mine[name], rows, strict=True), 1):
            if a != b:
                return f"line {at} of {name} differs"
    left = [path for folder in (out / CHECKPOINTS, clients) for path in folder.rglob("*") if path.is_file()]
    left += out.glob(".*.tmp")
    return f"files are left: {', '.join(map(str, left[:3]))}" if left else ""
