"""Named experiments. A new one is a file here and a line in ``EXPERIMENTS``."""

from experiments.catalog.cifar10_small import CIFAR10_SMALL
from experiments.catalog.experiment import SCALES, Experiment
from experiments.catalog.quickstart import MAIN, QUICKSTART

EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in (MAIN, QUICKSTART, CIFAR10_SMALL)}

__all__ = ["EXPERIMENTS", "SCALES", "Experiment"]
