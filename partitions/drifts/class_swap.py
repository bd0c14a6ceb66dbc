"""Classes leave and others enter: the device moves to a new place."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Cells, Partition


@dataclass(frozen=True)
class ClassSwap(Drift):
    """ceil(fraction * m) of a device's m classes hand their probability to as many classes that it does not have.

    If fewer are free, only so many leave. If none is (Dirichlet gives every class some mass), the chosen classes pass
    their probabilities round among themselves.
    """

    cells: ClassVar[Cells] = "label"

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        # asked of an example: mass that is spread evenly over everything leaves nothing to swap
        p = partition.initial(np.random.default_rng(0), 0, frequencies)
        if np.allclose(p, frequencies) or np.allclose(p, (frequencies > 0) / np.count_nonzero(frequencies)):
            raise ValueError(
                "drift 'class-swap' needs devices that differ from the whole: use partition 'm-classes' with fewer "
                "classes per device than the data set has, or 'dirichlet'"
            )

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        generator = shift.generator
        held, free = np.flatnonzero(p), np.flatnonzero((p == 0) & (shift.frequencies > 0))
        count = math.ceil(shift.fraction * len(held) - 1e-9)  # 0.2 * 5 must stay 1
        after = p.copy()
        if len(free):
            count = min(count, len(free))
            leave = generator.choice(held, count, replace=False)
            after[leave] = 0
            after[generator.choice(free, count, replace=False)] = p[leave]
        else:
            turn = generator.choice(held, count, replace=False)
            after[np.roll(turn, 1)] = p[turn]
        return after
