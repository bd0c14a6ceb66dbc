"""The base class of drifts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.components import Section
from partitions.corruptions import Corruption
from partitions.partitioners.partitioner import Cells, Partition


@dataclass(frozen=True)
class Shift:
    """One drift step of one device.

    Args:
        device: the device's number.
        generator: the source of all random choices at this step.
        fraction: how much of the device's data shifts, 0 to 1.
        frequencies: each cell's share of the pool (K,).
        number: number of the device's shifts so far, this one included.
        context: ``context(k)`` is the k-th distribution (K,) that the partition chooses for this device; the device
            started with ``context(0)``.
    """

    device: int
    generator: np.random.Generator
    fraction: float
    frequencies: np.ndarray
    number: int
    context: Callable[[int], np.ndarray]


class Drift(Section):
    """Change a device's data at each drift step; the fields of a subclass are its options.

    A drift changes the distribution over cells (``walk``), corrupts new samples (``alter``), or both. The `World` then
    replaces samples so that they follow. By default both stay the same, and new samples of the same kind replace old
    ones.
    """

    replaces: ClassVar[bool] = True  # False: devices keep their samples forever
    cells: ClassVar[Cells | None] = None  # the cells that it can change; None: any
    pictures: ClassVar[bool] = False  # True: it corrupts samples, which must be images

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        """Raise ValueError if the drift cannot follow ``partition`` or these ``frequencies`` of cells (K,)."""

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        """Return the next probabilities (K,), 0 where ``shift.frequencies`` is 0."""
        return p

    def alter(self, corruption: Corruption | None, shift: Shift) -> Corruption | None:
        """Return the corruption of samples that enter from now on; None: as in the data set."""
        return corruption
