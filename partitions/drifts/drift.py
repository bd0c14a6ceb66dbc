"""What every drift can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.corruptions import Change
from partitions.partitioners.partitioner import Cells, Partition


@dataclass(frozen=True)
class Shift:
    """One ``device`` at one drift step.

    ``fraction`` (0..1) says how much moves, ``frequencies`` (K,) are the cells' shares of the pool, ``number`` counts
    the device's shifts from 1 on. ``context(k)`` (K,) is the k-th distribution that the partition chooses for this
    device; it started with ``context(0)``.
    """

    device: int
    generator: np.random.Generator
    fraction: float
    frequencies: np.ndarray
    number: int
    context: Callable[[int], np.ndarray]


class Drift:
    """Moves a device at each drift step; the world then replaces samples so that they follow.

    What moves is the distribution (``walk``), the look of the samples that enter (``alter``), or both. By default
    neither does: old samples expire and new ones of the same kind come.
    """

    replaces: ClassVar[bool] = True  # False: samples stay for ever
    cells: ClassVar[Cells | None] = None  # what it can walk on; None: anything
    pictures: ClassVar[bool] = False  # True: it alters pictures, and only those

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        """ValueError if this drift makes no sense after ``partition`` or with cells of these ``frequencies`` (K,)."""

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        """The next probabilities (K,), zero where ``shift.frequencies`` is."""
        return p

    def alter(self, change: Change | None, shift: Shift) -> Change | None:
        """How the samples that enter from now on differ from those of the data set; None: not at all."""
        return change
