"""Concept drift: groups of devices pass from concept to concept."""

from typing import ClassVar

from pydantic import Field

from partitions.drifts.concepts import Concepts
from partitions.drifts.drift import Frame


class Concept(Concepts):
    """Move every group of devices to its next concept at each drift step of the group.

    All devices start with concept 0. Then group g visits the other concepts in order, beginning with concept
    1 + g % (count - 1). After the last one it stays, or starts anew with concept 0 (recurring). Groups and their delays
    are those of the schedule (``drift.groups``, ``drift.stagger``).
    """

    grouped: ClassVar[bool] = True
    count: int = Field(2, ge=2, le=1000, description="number of concepts, the labels of the data set included")
    recurring: bool = Field(False, description="after the last concept a group returns to concept 0")

    def number(self) -> int:
        return self.count

    def concept(self, device: int, step: int, frame: Frame) -> int:
        shifts = frame.schedule.of(device).count(step)
        at = shifts % self.count if self.recurring else min(shifts, self.count - 1)
        return 1 + (device % frame.schedule.groups + at - 1) % (self.count - 1) if at else 0
