"""Old contexts come back: home, work, home again."""

from dataclasses import dataclass

import numpy as np

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Partition


@dataclass(frozen=True)
class Recurring(Drift):
    """A device goes round ``contexts`` distributions of its own, each chosen as the partition chose the first.

    Contexts come back, their samples are drawn anew.
    """

    contexts: int = 2

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        if self.contexts < 2:
            raise ValueError(f"drift 'recurring' needs at least 2 contexts, not {self.contexts}")
        # asked of examples: if all are alike, there is nothing to go round
        some = [partition.initial(np.random.default_rng(k), k, frequencies) for k in range(8)]
        if all(np.array_equal(p, some[0]) for p in some):
            raise ValueError(
                "drift 'recurring' needs contexts that differ: use partition 'dirichlet', 'subject', or 'm-classes' "
                "with fewer classes per device than the data set has"
            )

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        return shift.context(shift.number % self.contexts)
