"""Class swap: some of a device's classes are exchanged for classes that it does not have."""

import math
from typing import ClassVar

import numpy as np

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Cells, Partition


class ClassSwap(Drift):
    """Give the probability of ceil(fraction * m) of a device's m classes to as many classes that it does not have.

    If fewer classes are free, only that many are exchanged. If no class is free (Dirichlet gives every class some
    probability), the chosen classes rotate their probabilities among themselves.
    """

    cells: ClassVar[Cells] = "label"

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        # A few examples show it: if all devices have the distribution of the pool, there is nothing to swap.
        some, even = range(8), (frequencies > 0) / np.count_nonzero(frequencies)
        shares = [partition.initial(np.random.default_rng(device), device, frequencies) for device in some]
        if all(np.allclose(p, frequencies) or np.allclose(p, even) for p in shares):
            raise ValueError(
                "drift.kind 'class-swap' needs devices that differ from the pool: use data.partition 'dirichlet', or "
                "'m-classes' with m-classes.m below the number of classes"
            )

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        generator = shift.generator
        present, free = np.flatnonzero(p), np.flatnonzero((p == 0) & (shift.frequencies > 0))
        count = math.ceil(shift.fraction * len(present) - 1e-9)  # 0.2 * 5 must stay 1
        after = p.copy()
        if len(free):
            count = min(count, len(free))
            leave = generator.choice(present, count, replace=False)
            after[leave] = 0
            after[generator.choice(free, count, replace=False)] = p[leave]
        else:
            rotated = generator.choice(present, count, replace=False)
            after[np.roll(rotated, 1)] = p[rotated]
        return after
