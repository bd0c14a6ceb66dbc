"""Benchmarks: ``python -m experiments bench``. A new one is a module here and a line in ``BENCHMARKS``."""

from importlib import import_module
from types import ModuleType

from partitions.errors import UserError, lookup

BENCHMARKS: dict[str, str] = {
    "w1": "experiments.bench.w1",
    "w2": "experiments.bench.w2",
    "eclm500": "experiments.bench.eclm500",
    "derive": "experiments.bench.derive",
    "merge": "experiments.bench.merge",
    "layer": "experiments.bench.layer",
    "growth": "experiments.bench.growth",
    "spa": "experiments.bench.spa",
    "start-up": "experiments.bench.start_up",
}
"""Modules with a function ``bench(Options) -> Table``, imported on first use."""


class EntrantFailed(UserError):
    """An entrant ended or did not answer; the message quotes the end of its log."""


def find(name: str) -> ModuleType:
    """Import the benchmark of that name. UnknownName: there is none."""
    return import_module(lookup("benchmark", name, BENCHMARKS))


def about(name: str) -> str:
    """Describe a benchmark: the first line of its module's docstring, without its name."""
    return (find(name).__doc__ or "").splitlines()[0].partition(": ")[2]
