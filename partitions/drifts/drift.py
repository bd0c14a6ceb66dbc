"""What every drift can do."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from partitions.kinds.kind import Cells, Partition


class Drift(ABC):
    """Moves a device's distribution at each drift step; the world then replaces samples so that they follow it."""

    replaces: ClassVar[bool] = True  # False: samples stay for ever
    cells: ClassVar[Cells | None] = None  # what it can walk on; None: anything

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        """ValueError if this drift makes no sense after ``partition`` or with cells of these ``frequencies`` (K,)."""

    @abstractmethod
    def walk(
        self, generator: np.random.Generator, p: np.ndarray, fraction: float, frequencies: np.ndarray
    ) -> np.ndarray:
        """The next probabilities (K,). ``fraction`` (0..1) says how much moves, ``frequencies`` (K,) are the pool's."""
