"""start-up: seconds from the start of a program to its first trained devices, with everything that a user waits for."""

from time import perf_counter

from experiments.bench.contest import Runner
from experiments.bench.exam import Exam
from experiments.bench.table import Line, Options, Table
from experiments.bench.w1 import BARE, entrants
from experiments.bench.w2 import har_run


def bench(options: Options) -> Table:
    """Start each program once in a block; the number of rounds does not matter."""
    exam = Exam.write(options.scratch / "exam", "mlp", har_run(options, cohort=2, epochs=1))
    field = [one for one in entrants(options) if one.what in (BARE, "pfl-research") or one.module in ("ours", "flower")]
    lines = {entrant.what: Line(entrant.what, missing=entrant.missing) for entrant in field}
    for block in range(options.blocks):
        for entrant in field:
            if entrant.missing:
                continue
            options.progress(f"start {block + 1} of {options.blocks}: {entrant.what}")
            began = perf_counter()
            runner = Runner(entrant, exam, options.scratch)
            try:
                runner.receive()
                runner.round()
                lines[entrant.what].wall.append(perf_counter() - began)
                runner.end()
            finally:
                runner.kill()
    title = "From the start of the program to two trained devices, seconds."
    return Table(title, BARE, list(lines.values()))
