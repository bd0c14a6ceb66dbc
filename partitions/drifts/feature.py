"""The same classes look different: a sensor ages, a lens gets dirty, a camera is turned."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.corruptions import CORRUPTIONS, Change
from partitions.drifts.drift import Drift, Shift
from partitions.errors import lookup
from partitions.partitioners.partitioner import Partition

ANY = "any"


@dataclass(frozen=True)
class Feature(Drift):
    """The severity of a device's ``corruption`` starts at 0 and walks by up to ``severity_step``, reflected at 0 and 1.

    ``any`` gives each device one kind of its own. A sample keeps the look that it had when it entered; test samples
    look as those that enter now.
    """

    corruption: str = ANY
    severity_step: float = 0.5
    pictures: ClassVar[bool] = True

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        lookup("corruption", self.corruption, dict.fromkeys((ANY, *CORRUPTIONS)))
        if not 0 < self.severity_step <= 1:
            raise ValueError(f"severity step must be above 0 and at most 1, not {self.severity_step}")

    def alter(self, change: Change | None, shift: Shift) -> Change:
        if change is None:
            own = sorted(CORRUPTIONS) if self.corruption == ANY else [self.corruption]
            change = Change(own[shift.generator.integers(len(own))], 0.0)
        moved = change.severity + shift.generator.uniform(-self.severity_step, self.severity_step)
        return Change(change.kind, 1 - abs(1 - abs(moved)))
