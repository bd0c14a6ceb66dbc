"""Several programs do the same rounds in turns, so that other load on the machine slows all of them alike."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from experiments.bench import EntrantFailed
from experiments.bench.exam import Exam
from experiments.bench.table import Line, Options, Table
from fl.engines.worker_server import KEEP_MEMORY

TIMEOUT_S = 600.0  # longest wait for the start or for a round of an entrant
ACCURACY, NORM = 0.03, 0.02  # largest difference between entrants that do the same work: absolute, relative


@dataclass(frozen=True)
class Entrant:
    """A program that takes part.

    Args:
        what: its name in the table.
        module: of `experiments.bench.entrants`; options: arguments after the exam's folder and the file for weights.
        environment: environment variables in addition to those of this process.
        missing: why it cannot take part on this machine.
    """

    what: str
    module: str
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: KEEP_MEMORY)
    missing: str = ""


class Runner:
    """A running entrant."""

    def __init__(self, entrant: Entrant, exam: Exam, scratch: Path):
        stem = entrant.what.replace(" ", "-").replace(",", "")
        self.weights, self.log = scratch / f"{stem}.npz", scratch / f"{stem}.log"
        command = [sys.executable, "-W", "ignore", "-m", f"experiments.bench.entrants.{entrant.module}"]
        command += [str(exam.folder), str(self.weights), *entrant.options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **entrant.environment},
            )  # fmt: skip
        self.began, self.line = perf_counter(), Line(entrant.what)

    def receive(self) -> float | None:
        """Wait for the entrant's next message: seconds of its last round, None before the first.

        Raises:
            EntrantFailed: it ended, or sent nothing within `TIMEOUT_S`.
        """
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise EntrantFailed(
                f"'{self.line.what}' does not answer; the end of its log:\n{self.log.read_text()[-2000:]}"
            )
        return json.loads(line)

    def send(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def round(self) -> tuple[float, float]:
        """Run one round; return its wall-clock and CPU seconds."""
        before = processor_seconds(self.process.pid)
        self.send("round")
        wall = self.receive()
        assert wall is not None
        return wall, processor_seconds(self.process.pid) - before

    def record(self) -> None:
        """Run one round, and add its seconds to the line."""
        wall, cpu = self.round()
        self.line.wall.append(wall)
        self.line.cpu.append(cpu)

    def end(self) -> None:
        """Let the entrant write its weights, and wait until it has ended."""
        self.send("stop")
        self.process.wait(TIMEOUT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def take_turns(runners: Sequence[Runner], options: Options) -> None:
    """Run blocks of rounds: in each block every runner does its rounds, one runner after the other."""
    for block in range(options.blocks):
        for runner in runners:
            options.progress(f"block {block + 1} of {options.blocks}: {runner.line.what}")
            for _ in range(options.rounds):
                runner.record()
    for runner in runners:
        runner.end()


def contest(title: str, reference: str, exam: Exam, entrants: Sequence[Entrant], options: Options) -> Table:
    """Let every entrant do the same rounds, after one round to warm up.

    Raises:
        EntrantFailed: one of them fails.
    """
    lines = {entrant.what: Line(entrant.what, missing=entrant.missing) for entrant in entrants}
    runners: list[Runner] = []
    try:
        for entrant in entrants:
            if entrant.missing:
                continue
            options.progress(f"{entrant.what}: start and first round")
            runners.append(runner := Runner(entrant, exam, options.scratch))
            runner.line = lines[entrant.what]
            runner.receive()
            runner.round()
            runner.line.start = perf_counter() - runner.began
        take_turns(runners, options)
        found = {runner.line.what: exam.score(runner.weights) for runner in runners}
    finally:
        for runner in runners:
            runner.kill()
    for what, (accuracy, norm) in found.items():
        lines[what].facts = {"accuracy": f"{accuracy:.3f}", "moved": f"{norm:.4f}"}
    return Table(title, reference, list(lines.values()), [_same_work(found, reference)])


def _same_work(found: Mapping[str, tuple[float, float]], reference: str) -> str:
    """Say whether all entrants reached the accuracy of the reference and moved as far from the start."""
    accuracy, norm = found[reference]
    off = [
        what for what, (a, n) in found.items() if abs(a - accuracy) > ACCURACY or abs(n - norm) > NORM * norm
    ]  # fmt: skip
    if off:
        return f"NOT the same work: {', '.join(off)} ended elsewhere than '{reference}' (accuracy, distance moved)."
    return f"All did the same work: accuracy within {ACCURACY:.0%}, distance moved within {NORM:.0%} of '{reference}'."


def processor_seconds(root: int) -> float:
    """Return the CPU seconds of a process and its descendants, also of those that have ended; 0 without ``/proc``."""
    used: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            cells = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used[int(stat.parent.name)] = sum(int(cell) for cell in cells[11:15])  # with children that have ended
        children.setdefault(int(cells[1]), []).append(int(stat.parent.name))
    total, open_ = 0, [root]
    while open_:
        process = open_.pop()
        total += used.get(process, 0)
        open_ += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")
