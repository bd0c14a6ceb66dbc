"""IID partition: every device has the distribution of the pool."""

import numpy as np

from partitions.partitioners.partitioner import Partition


class Iid(Partition):
    """Give every device the pool's class shares."""

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        return frequencies.copy()
