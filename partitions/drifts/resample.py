"""Resampling: new samples of the same distribution replace old ones."""

from partitions.drifts.drift import Drift


class Resample(Drift):
    """Replace samples without changing the distribution."""
