"""What things cost: ``python -m experiments bench``. A benchmark is one module here and one line of ``BENCHMARKS``."""

import sys
from collections.abc import Callable

from experiments.bench import derive, eclm500, layer, merge, start_up, w1, w2
from experiments.bench.table import Options, Table

BENCHMARKS: dict[str, Callable[[Options], Table]] = {
    "w1": w1.bench,
    "w2": w2.bench,
    "eclm500": eclm500.bench,
    "derive": derive.bench,
    "merge": merge.bench,
    "layer": layer.bench,
    "start-up": start_up.bench,
}


def about(name: str) -> str:
    """What a benchmark measures: the first line of its module's docstring, without its name."""
    text = sys.modules[BENCHMARKS[name].__module__].__doc__ or ""
    return text.splitlines()[0].partition(": ")[2]
