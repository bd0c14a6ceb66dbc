"""start-up: seconds from nothing to the first trained devices, everything included that a user waits for."""

from time import perf_counter

from experiments.bench.contest import Runner
from experiments.bench.exam import Exam
from experiments.bench.table import Line, Options, Table
from experiments.bench.w1 import BARE, entrants, fedavg
from experiments.bench.w2 import made_up


def bench(options: Options) -> Table:
    """A block is one start of each; its rounds do not count."""
    made_up(options.scratch)
    own = {"dataset": "har-uci", "data-root": str(options.scratch), "model": "mlp", "devices": 500, "cohort": 2}
    exam = Exam.write(options.scratch / "exam", "mlp", fedavg(options, **own, samples=100, epochs=1, batch=16, lr=0.01))
    field = [one for one in entrants(options) if one.what in (BARE, "pfl-research") or one.module in ("ours", "flower")]
    lines = {entrant.what: Line(entrant.what, why_not=entrant.missing) for entrant in field}
    for block in range(options.blocks):
        for entrant in field:
            if entrant.missing:
                continue
            options.say(f"start {block + 1} of {options.blocks}: {entrant.what}")
            began = perf_counter()
            runner = Runner(entrant, exam, options.scratch)
            try:
                runner.hear()
                runner.round()
                lines[entrant.what].wall.append(perf_counter() - began)
                runner.end()
            finally:
                runner.kill()
    title = "From the start of the program to two trained devices, seconds."
    return Table(title, BARE, list(lines.values()))
