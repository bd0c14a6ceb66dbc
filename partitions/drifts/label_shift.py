"""Label shift: class shares change gradually, and any class may appear or disappear."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.dirichlet import Dirichlet
from partitions.partitioners.partitioner import Cells


class LabelShift(Drift):
    """Mix class shares with new ones: p <- (1 - fraction) p + fraction q, with q from the Dirichlet partition.

    The total variation distance between old and new shares is at most ``fraction``. In the long run the mean over
    devices is the distribution of the pool.
    """

    cells: ClassVar[Cells] = "label"
    alpha: float = Field(0.5, gt=0, description="concentration of the new class shares; smaller is more skewed")

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        q = Dirichlet(alpha=self.alpha).initial(shift.generator, 0, shift.frequencies)
        return (1 - shift.fraction) * p + shift.fraction * q
