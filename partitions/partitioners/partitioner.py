"""What every partition can do."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np

Cells = Literal["label", "domain"]


class Partition(ABC):
    """Chooses a device's first distribution over *cells*: classes (label skew) or domains (feature skew)."""

    cells: ClassVar[Cells] = "label"

    def check(self, frequencies: np.ndarray) -> None:
        """ValueError if this partition cannot be made of cells with these ``frequencies`` (K,)."""

    @abstractmethod
    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        """Probabilities (K,), zero where ``frequencies`` (K,), the cells' shares of the pool, are zero."""
