"""A world that stands still."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.drifts.drift import Drift


@dataclass(frozen=True)
class Still(Drift):
    replaces: ClassVar[bool] = False

    def walk(
        self, generator: np.random.Generator, p: np.ndarray, fraction: float, frequencies: np.ndarray
    ) -> np.ndarray:
        return p
