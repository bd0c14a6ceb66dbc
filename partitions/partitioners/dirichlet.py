"""Dirichlet partition: class shares of each device from a Dirichlet distribution."""

import numpy as np
from pydantic import Field

from partitions.partitioners.partitioner import Partition


class Dirichlet(Partition):
    """Draw class shares with concentration ``alpha * K * frequencies``.

    Where classes are balanced, this is the usual symmetric ``alpha``.
    """

    alpha: float = Field(0.5, gt=0, description="concentration; smaller is more skewed")

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(frequencies)
        p = np.zeros(len(frequencies))
        p[known] = generator.dirichlet(self.alpha * len(known) * frequencies[known] / frequencies.sum())
        return p
