"""Options of a benchmark, and its result: a table with one line per measured program or function."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time

from fl.results.files import atomic_write, csv_text


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Args:
        blocks: number of turns of each program or function; rounds: repetitions in a turn.
        workers: worker processes of programs that have several.
        scratch: a folder for temporary files.
        progress: shows progress.
    """

    blocks: int
    rounds: int
    workers: int
    scratch: Path
    progress: Callable[[str], None] = lambda text: None


@dataclass
class Line:
    """The measurements of one program or function.

    Args:
        what: its name.
        wall, cpu: seconds of each repetition: wall-clock time, and CPU time of all its processes.
        start: seconds from its start to the end of the first repetition, which ``wall`` and ``cpu`` leave out.
        facts: further values.
        missing: why it was not measured, one sentence.
    """

    what: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    start: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


def interleave(works: Mapping[str, Callable[[], object]], options: Options) -> list[Line]:
    """Time functions in this process in turns, after one warm-up call of each."""
    lines = {what: Line(what) for what in works}
    for what, work in works.items():
        began = perf_counter()
        work()
        lines[what].start = perf_counter() - began
    for block in range(options.blocks):
        for what, work in works.items():
            options.progress(f"block {block + 1} of {options.blocks}: {what}")
            for _ in range(options.rounds):
                began, used = perf_counter(), process_time()
                work()
                lines[what].wall.append(perf_counter() - began)
                lines[what].cpu.append(process_time() - used)
    return list(lines.values())


@dataclass
class Table:
    """Lines, each with its ratio to the line called ``reference``.

    Args:
        title: one sentence: what a repetition does.
        checks: what was checked, with the result, one sentence each.
    """

    title: str
    reference: str
    lines: Sequence[Line]
    checks: Sequence[str] = ()

    def rows(self) -> list[dict[str, str]]:
        """Return medians and ranges as text, for the page and for the CSV file."""
        (base,) = [line for line in self.lines if line.what == self.reference]
        out = []
        for line in self.lines:
            row = {"what": line.what, "seconds": "", "low": "", "high": "", "repeats": str(len(line.wall))}
            row |= {"ratio": "", "cpu seconds": "", "cpu ratio": "", "first": ""}
            if line.wall:
                row |= {"seconds": _number(statistics.median(line.wall))}
                row |= {"low": _number(min(line.wall)), "high": _number(max(line.wall))}
                row["ratio"] = f"{statistics.median(line.wall) / statistics.median(base.wall):.2f}" if base.wall else ""
            if line.cpu:
                row["cpu seconds"] = _number(statistics.median(line.cpu))
                if base.cpu and statistics.median(base.cpu) > 0:
                    row["cpu ratio"] = f"{statistics.median(line.cpu) / statistics.median(base.cpu):.2f}"
            if line.start is not None:
                row["first"] = _number(line.start)
            out.append(row | {"found": ", ".join(f"{k} {v}" for k, v in line.facts.items())})
        return out

    def markdown(self) -> str:
        """Format the page of the benchmark."""
        rows = self.rows()
        heads = [head for head in rows[0] if any(row[head] for row in rows)]
        text = [self.title, "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        text += [f"| {' | '.join(row[head] for head in heads)} |" for row in rows]
        missing = [f"{line.what}: {line.missing}" for line in self.lines if line.missing]
        notes = [f"Ratios are to '{self.reference}'.", *self.checks, *missing]
        return "\n".join([*text, "", *[f"- {sentence}" for sentence in notes], ""])

    def write(self, folder: Path, name: str) -> None:
        """Write ``<name>.csv`` and ``<name>.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        atomic_write(folder / f"{name}.csv", csv_text([list(rows[0]), *[list(row.values()) for row in rows]]))
        atomic_write(folder / f"{name}.md", self.markdown())


def _number(seconds: float) -> str:
    return f"{seconds:.4g}"
