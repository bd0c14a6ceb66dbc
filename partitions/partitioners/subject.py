"""A device is one person's (or one sensor's): feature skew as the data set recorded it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.partitioners.partitioner import Cells, Partition


@dataclass(frozen=True)
class Subject(Partition):
    """Device d starts with domain d mod D of the D domains that the pool holds."""

    cells: ClassVar[Cells] = "domain"

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(frequencies)
        p = np.zeros(len(frequencies))
        p[known[device % len(known)]] = 1
        return p
