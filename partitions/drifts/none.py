"""No drift: every device keeps its samples."""

from typing import ClassVar

from partitions.drifts.drift import Drift


class NoDrift(Drift):
    """Change nothing."""

    replaces: ClassVar[bool] = False
