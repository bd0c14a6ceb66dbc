"""Recurring drift: a device returns to earlier distributions, such as home, work and home again."""

import numpy as np
from pydantic import Field

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Partition


class Recurring(Drift):
    """Cycle through several distributions of a device, each chosen by the partition.

    The distributions return; the samples are drawn anew.
    """

    contexts: int = Field(2, ge=2, description="number of distributions through which a device cycles")

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        # A few examples show it: if all distributions are equal, there is nothing to cycle through.
        some = [partition.initial(np.random.default_rng(k), k, frequencies) for k in range(8)]
        if all(np.array_equal(p, some[0]) for p in some):
            raise ValueError(
                "drift.kind 'recurring' needs contexts that differ: use data.partition 'dirichlet', 'subject', or "
                "'m-classes' with m-classes.m below the number of classes"
            )

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        return shift.context(shift.number % self.contexts)
