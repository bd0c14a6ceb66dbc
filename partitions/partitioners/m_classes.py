"""A device meets m of the n classes, all equally often: the setting of most federated-learning papers."""

from dataclasses import dataclass

import numpy as np

from partitions.partitioners.partitioner import Partition


@dataclass(frozen=True)
class MClasses(Partition):
    classes_per_device: int = 2

    def check(self, frequencies: np.ndarray) -> None:
        known = np.count_nonzero(frequencies)
        if not 1 <= self.classes_per_device <= known:
            raise ValueError(f"classes per device must be 1 to {known}, not {self.classes_per_device}")

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        chosen = generator.choice(np.flatnonzero(frequencies), self.classes_per_device, replace=False)
        p = np.zeros(len(frequencies))
        p[chosen] = 1 / self.classes_per_device
        return p
