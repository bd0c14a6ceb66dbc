"""The device passes to another person: feature skew that moves."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Cells, Partition


@dataclass(frozen=True)
class PassOn(Drift):
    cells: ClassVar[Cells] = "domain"

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        if np.count_nonzero(frequencies) < 2:
            raise ValueError("drift 'subject' needs a data set with at least two domains")

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        after = np.zeros(len(p))
        after[shift.generator.choice(np.flatnonzero((p == 0) & (shift.frequencies > 0)))] = 1
        return after
