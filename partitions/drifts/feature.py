"""Feature drift: the same classes look different, because a sensor ages, a lens gets dirty or a camera is turned."""

from typing import ClassVar

from pydantic import Field, field_validator

from partitions.corruptions import CORRUPTIONS, Corruption
from partitions.drifts.drift import Drift, Shift
from partitions.errors import lookup

ANY = "any"
AT_RANDOM = ("blur", "brightness", "noise", "rotation")  # what ANY chooses from; a change would change results


class Feature(Drift):
    """Change the severity of a device's corruption: a random walk from 0, reflected at 0 and 1.

    A training sample keeps the corruption with which it entered. Test samples have the current corruption.
    """

    pictures: ClassVar[bool] = True
    corruption: str = Field(
        ANY, description=f"{', '.join(CORRUPTIONS)}, or any: {', '.join(AT_RANDOM)} at random for each device"
    )
    severity_step: float = Field(0.5, gt=0, le=1, description="largest change of the severity (0 to 1) at a shift")

    @field_validator("corruption")
    @classmethod
    def _known(cls, name: str) -> str:
        return lookup("corruption", name, {kind: kind for kind in (ANY, *CORRUPTIONS)})

    def alter(self, corruption: Corruption | None, shift: Shift) -> Corruption:
        if corruption is None:
            kinds = AT_RANDOM if self.corruption == ANY else [self.corruption]
            corruption = Corruption(kinds[shift.generator.integers(len(kinds))], 0.0)
        moved = corruption.severity + shift.generator.uniform(-self.severity_step, self.severity_step)
        return Corruption(corruption.kind, 1 - abs(1 - abs(moved)))
