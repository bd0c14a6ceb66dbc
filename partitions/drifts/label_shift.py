"""The class shares walk: habits change little by little, and any class may come or go."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.dirichlet import Dirichlet
from partitions.partitioners.partitioner import Cells, Partition


@dataclass(frozen=True)
class LabelShift(Drift):
    """p <- (1 - fraction) p + fraction q, with q drawn as the Dirichlet partition of this ``alpha`` draws.

    In total variation p moves by ``fraction`` at most, and in the long run it is the pool's frequencies on average.
    """

    alpha: float = 0.5
    cells: ClassVar[Cells] = "label"

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        Dirichlet(self.alpha).check(frequencies)

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        q = Dirichlet(self.alpha).initial(shift.generator, 0, shift.frequencies)
        return (1 - shift.fraction) * p + shift.fraction * q
