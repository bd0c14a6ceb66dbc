"""A world that stands still."""

from dataclasses import dataclass
from typing import ClassVar

from partitions.drifts.drift import Drift


@dataclass(frozen=True)
class Still(Drift):
    replaces: ClassVar[bool] = False
