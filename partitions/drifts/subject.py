"""Subject drift: a device passes to another person, so its features shift."""

from typing import ClassVar

import numpy as np

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Cells, Partition


class SubjectChange(Drift):
    """Move a device to a random domain that it does not have."""

    cells: ClassVar[Cells] = "domain"

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        if (domains := np.count_nonzero(frequencies)) < 2:
            raise ValueError(
                f"drift.kind 'subject' needs at least 2 domains, and the data set has {domains}: use another drift"
            )

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        after = np.zeros(len(p))
        after[shift.generator.choice(np.flatnonzero((p == 0) & (shift.frequencies > 0)))] = 1
        return after
