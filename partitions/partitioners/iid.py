"""Every device sees the world as it is."""

from dataclasses import dataclass

import numpy as np

from partitions.partitioners.partitioner import Partition


@dataclass(frozen=True)
class Iid(Partition):
    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        return frequencies.copy()
