"""All devices are always online."""

import numpy as np

from partitions.availability.availability import Availability


class Always(Availability):
    """Keep every device online."""

    def online(self, seed: int, server_round: int, devices: np.ndarray) -> np.ndarray:
        return np.ones(len(devices), bool)
