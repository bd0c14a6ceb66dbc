"""The base class of partitions."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np

from partitions.components import Section

Cells = Literal["label", "domain"]


class Partition(Section, ABC):
    """Choose a device's first distribution over cells; the fields of a subclass are its options.

    Cells are classes (label skew) or domains (feature skew).
    """

    cells: ClassVar[Cells] = "label"

    def check(self, frequencies: np.ndarray) -> None:
        """Raise ValueError if the partition is impossible with these ``frequencies`` of cells (K,)."""

    @abstractmethod
    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        """Return the probability of each cell.

        Args:
            generator: the source of all random choices.
            device: the device's number.
            frequencies: each cell's share of the pool (K,).

        Returns:
            Probabilities (K,), 0 where ``frequencies`` is 0.
        """
