"""Class shares drawn from a Dirichlet distribution: small alpha, few classes; large alpha, the world as it is."""

import math
from dataclasses import dataclass

import numpy as np

from partitions.partitioners.partitioner import Partition


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Concentration ``alpha * K * frequencies``: the usual symmetric ``alpha`` where classes are balanced."""

    alpha: float = 0.5

    def check(self, frequencies: np.ndarray) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a positive number, not {self.alpha}")

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(frequencies)
        p = np.zeros(len(frequencies))
        p[known] = generator.dirichlet(self.alpha * len(known) * frequencies[known] / frequencies.sum())
        return p
