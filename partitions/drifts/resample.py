"""New samples of the same distribution: old data expire, the device's habits do not change."""

from dataclasses import dataclass

import numpy as np

from partitions.drifts.drift import Drift


@dataclass(frozen=True)
class Resample(Drift):
    def walk(
        self, generator: np.random.Generator, p: np.ndarray, fraction: float, frequencies: np.ndarray
    ) -> np.ndarray:
        return p
