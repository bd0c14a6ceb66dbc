"""The same rounds done by several programs, turn by turn, so that a busy machine is as unkind to each of them."""

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

PATIENCE_S = 600.0  # with an entrant that starts or trains a round
ACCURACY, NORM = 0.03, 0.02  # by how much two that did the same work may differ: absolute, relative


@dataclass(frozen=True)
class Entrant:
    """A program that takes part.

    Args:
        module: of `experiments.bench.entrants`; options: what it is told beside the exam and where to leave weights.
        environment: variables that it gets beside ours.
        missing: why it cannot take part here.
    """

    what: str
    module: str
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: KEEP_MEMORY)
    missing: str = ""


class Runner:
    """An entrant at work."""

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

    def hear(self) -> float | None:
        """What the entrant says next: seconds of its last round.

        Raises:
            EntrantFailed: nothing.
        """
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        said = self.process.stdout.readline() if ready else ""
        if not said:
            raise EntrantFailed(
                f"'{self.line.what}' said nothing more; the end of its log:\n{self.log.read_text()[-2000:]}"
            )
        return json.loads(said)

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def round(self) -> tuple[float, float]:
        """Seconds of one round, on the clock and of processors."""
        before = processor_seconds(self.process.pid)
        self.tell("round")
        wall = self.hear()
        assert wall is not None
        return wall, processor_seconds(self.process.pid) - before

    def end(self) -> None:
        """Let it leave its weights and wait until it is gone."""
        self.tell("enough")
        self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def take_turns(runners: Sequence[Runner], options: Options) -> None:
    """Blocks of rounds, each runner one block after the other, so that what disturbs one disturbs all."""
    for block in range(options.blocks):
        for runner in runners:
            options.say(f"block {block + 1} of {options.blocks}: {runner.line.what}")
            for _ in range(options.rounds):
                wall, cpu = runner.round()
                runner.line.wall.append(wall)
                runner.line.cpu.append(cpu)
    for runner in runners:
        runner.end()


def contest(title: str, reference: str, exam: Exam, entrants: Sequence[Entrant], options: Options) -> Table:
    """Every entrant does the same rounds; the first is for warming up.

    Raises:
        EntrantFailed: one of them fails.
    """
    lines = {entrant.what: Line(entrant.what, why_not=entrant.missing) for entrant in entrants}
    runners: list[Runner] = []
    try:
        for entrant in entrants:
            if entrant.missing:
                continue
            options.say(f"{entrant.what}: start and first round")
            runners.append(runner := Runner(entrant, exam, options.scratch))
            runner.line = lines[entrant.what]
            runner.hear()
            runner.round()
            runner.line.start = perf_counter() - runner.began
        take_turns(runners, options)
        found = {runner.line.what: exam.judge(runner.weights) for runner in runners}
    finally:
        for runner in runners:
            runner.kill()
    for what, (accuracy, norm) in found.items():
        lines[what].facts = {"accuracy": f"{accuracy:.3f}", "moved": f"{norm:.4f}"}
    return Table(title, reference, list(lines.values()), [_same_work(found, reference)])


def _same_work(found: Mapping[str, tuple[float, float]], reference: str) -> str:
    """Whether all reached the accuracy of the reference and moved as far from the start."""
    accuracy, norm = found[reference]
    off = [
        what for what, (a, n) in found.items() if abs(a - accuracy) > ACCURACY or abs(n - norm) > NORM * norm
    ]  # fmt: skip
    if off:
        return f"NOT the same work: {', '.join(off)} ended elsewhere than '{reference}' (accuracy, distance moved)."
    return f"All did the same work: accuracy within {ACCURACY:.0%}, distance moved within {NORM:.0%} of '{reference}'."


def processor_seconds(root: int) -> float:
    """Seconds of processors that a process and its descendants have used, those that have ended included; 0 where the
    system does not tell."""
    used: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            cells = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used[int(stat.parent.name)] = sum(int(cell) for cell in cells[11:15])  # of its own and of its dead children
        children.setdefault(int(cells[1]), []).append(int(stat.parent.name))
    total, open_ = 0, [root]
    while open_:
        process = open_.pop()
        total += used.get(process, 0)
        open_ += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")
