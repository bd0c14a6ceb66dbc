"""m-classes partition: each device has m random classes in equal shares, as in most federated-learning papers."""

import numpy as np
from pydantic import Field

from partitions.partitioners.partitioner import Partition


class MClasses(Partition):
    """Give each device ``m`` random classes in equal shares."""

    m: int = Field(2, ge=1, description="number of classes of each device")

    def check(self, frequencies: np.ndarray) -> None:
        if self.m > (known := np.count_nonzero(frequencies)):
            raise ValueError(f"m-classes.m must be 1 to {known}, the number of classes in the data set, not {self.m}")

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        chosen = generator.choice(np.flatnonzero(frequencies), self.m, replace=False)
        p = np.zeros(len(frequencies))
        p[chosen] = 1 / self.m
        return p
