"""What things cost: ``python -m experiments bench``. A benchmark is one module here and one line of ``BENCHMARKS``."""

from importlib import import_module
from types import ModuleType

from partitions.errors import lookup

BENCHMARKS: dict[str, str] = {
    "w1": "experiments.bench.w1",
    "w2": "experiments.bench.w2",
    "eclm500": "experiments.bench.eclm500",
    "derive": "experiments.bench.derive",
    "merge": "experiments.bench.merge",
    "layer": "experiments.bench.layer",
    "start-up": "experiments.bench.start_up",
}
"""Modules with a function ``bench(Options) -> Table``, imported when they are asked for."""


class EntrantFailed(RuntimeError):
    """A contestant ended or kept silent; the message quotes its last words."""


def find(name: str) -> ModuleType:
    """The benchmark of that name. UnknownName if there is none."""
    return import_module(lookup("benchmark", name, BENCHMARKS))


def about(name: str) -> str:
    """What a benchmark measures: the first line of its module's docstring, without its name."""
    return (find(name).__doc__ or "").splitlines()[0].partition(": ")[2]
