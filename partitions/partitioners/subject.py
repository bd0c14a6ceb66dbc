"""Subject partition: each device has the data of one person or sensor, as the data set recorded them."""

from typing import ClassVar

import numpy as np

from partitions.partitioners.partitioner import Cells, Partition


class Subject(Partition):
    """Give device d the domain d mod D of the D domains in the pool."""

    cells: ClassVar[Cells] = "domain"

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(frequencies)
        p = np.zeros(len(frequencies))
        p[known[device % len(known)]] = 1
        return p
