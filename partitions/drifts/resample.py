"""New samples of the same distribution: old data expire, the device's habits do not change."""

from dataclasses import dataclass

from partitions.drifts.drift import Drift


@dataclass(frozen=True)
class Resample(Drift):
    pass
