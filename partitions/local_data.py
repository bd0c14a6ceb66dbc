"""What one machine holds: its own data, as they have come so far. Nothing is drawn, and time is the machine's."""

from dataclasses import dataclass

import numpy as np

from partitions.dataset import Dataset
from partitions.world import Draw


@dataclass(frozen=True, eq=False)
class LocalData:
    """A world with one device, whose data set is in the order of arrival.

    Args:
        samples: the newest so many train samples are the device's; older ones have faded.
        test_samples: the newest so many test samples score it.
    """

    data: Dataset
    samples: int
    test_samples: int

    def proxy(self) -> np.ndarray:
        """Indices of the train samples that the cloud holds, where this machine is the cloud: all."""
        return np.arange(len(self.data.y_train))

    def draw(self, device: int, step: int) -> Draw:
        """What there is now, whatever the device's number and the run's step."""
        train, test = np.arange(len(self.data.y_train)), np.arange(len(self.data.y_test))
        return Draw(train[-self.samples :], (), lambda: (test[-self.test_samples :], ()))
