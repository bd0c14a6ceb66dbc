"""growth: seconds and memory of a round of FedAvg against its clients, the clients that exist, and the parameters.

An MLP on generated data, one epoch on 32 samples in batches of 16, in one process. Each point is a process of its own.
Memory is its largest resident size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from experiments.bench.contest import Entrant, Runner
from experiments.bench.exam import SEED, Exam
from experiments.bench.table import Line, Options, Table
from experiments.bench.w1 import fedavg
from experiments.bench.w2 import generate_data
from experiments.plots.panels import grid
from experiments.plots.style import save, styled

AXES: Mapping[str, tuple[Mapping[str, int], ...]] = {
    "clients in a round": tuple({"devices.count": 1000, "cohort": n} for n in (10, 32, 100, 316, 1000)),
    "clients that exist": tuple({"devices.count": n, "cohort": 32} for n in (500, 10_000, 100_000, 1_000_000)),
    "parameters": tuple({"devices.count": 500, "cohort": 8, "model.width": n} for n in (128, 512, 2048, 8192)),
}


@dataclass
class Growth(Table):
    """A table with a figure: a column of panels for each axis, seconds above memory."""

    def write(self, folder: Path, name: str) -> None:
        super().write(folder, name)
        save(figure(self.lines), folder, name)


def bench(options: Options) -> Table:
    generate_data(options.scratch)
    own = {"data.name": "har-uci", "data.root": str(options.scratch), "model.name": "mlp"}
    lines = []
    for axis, points in AXES.items():
        for at, keys in enumerate(points):
            run = fedavg(options, {**own, **keys}, samples=32, epochs=1, batch=16, lr=0.01)
            sizes = {
                "clients in a round": run.settings.cohort,
                "clients that exist": run.settings.devices.count,
                "parameters": run.workload.prepare(SEED).costs["dense"].whole.params,
            }
            options.progress(what := f"{axis}: {sizes[axis]:,.0f}")
            folder = options.scratch / f"{axis.replace(' ', '-')}-{at}"
            folder.mkdir()
            (folder / "about.json").write_text(json.dumps(run.settings.flat()))
            lines.append(_measured(what, Exam(folder, run), options))
    checks = [f"CPU seconds grow as n^{exponent(lines, axis):.2f} with n {axis}." for axis in AXES]
    return Growth(__doc__.splitlines()[0], lines[0].what, lines, checks)


def _measured(what: str, exam: Exam, options: Options) -> Line:
    runner = Runner(Entrant(what, "shares", ["fedavg"]), exam, exam.folder)
    try:
        runner.receive()
        runner.round()  # warms up
        for _ in range(options.blocks * options.rounds):
            runner.record()
        status = Path(f"/proc/{runner.process.pid}/status")
        peak = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        runner.line.facts = {"MB": f"{int(peak[0]) / 1024:.0f}"}
    finally:
        runner.kill()
    return runner.line


def points(lines: Sequence[Line], axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sizes, mean CPU seconds of a round, and megabytes of the lines of an axis."""
    of = [line for line in lines if line.what.startswith(f"{axis}: ")]
    sizes = [float(line.what.partition(": ")[2].replace(",", "")) for line in of]
    return (
        np.array(sizes),
        np.array([mean(line.cpu) for line in of]),
        np.array([float(line.facts["MB"]) for line in of]),
    )


def exponent(lines: Sequence[Line], axis: str) -> float:
    """Return the slope of log seconds against log size, by least squares."""
    sizes, seconds, _ = points(lines, axis)
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def figure(lines: Sequence[Line]) -> Figure:
    """Draw seconds and megabytes against each size, on logarithmic axes."""
    with styled():
        drawn, panels = grid([*AXES, *[""] * len(AXES)], {}, len(AXES), (3.4, 2.4))
        for at, axis in enumerate(AXES):
            sizes, seconds, megabytes = points(lines, axis)
            for axes, values, label in (
                (panels[at], seconds, "CPU seconds of a round"), (panels[at + len(AXES)], megabytes, "memory, MB"),
            ):  # fmt: skip
                axes.loglog(sizes, values, "o-", color="#0072b2")
                axes.set_ylabel(label if at == 0 else "")
                axes.set_ylim(values.min() / 3, values.max() * 3)
            panels[at].annotate(f"n^{exponent(lines, axis):.2f}", (0.06, 0.86), xycoords="axes fraction", fontsize=10)
            panels[at + len(AXES)].set_xlabel(axis)
    return drawn
