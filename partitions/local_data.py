"""The real data of one machine, for a deployed device: the counterpart of `partitions.world`."""

from dataclasses import dataclass

import numpy as np

from partitions.dataset import Dataset
from partitions.world import Draw


@dataclass(frozen=True, eq=False)
class LocalData:
    """The data of one real device, with the methods of a `World`.

    Args:
        data: the machine's samples in the order of arrival.
        samples: the device trains on this many of its newest training samples.
        test_samples: the device is tested on this many of its newest test samples.
    """

    data: Dataset
    samples: int
    test_samples: int

    def proxy(self) -> np.ndarray:
        """Return the indices of the server's training samples if this machine is the server: all of them."""
        return np.arange(len(self.data.y_train))

    def draw(self, device: int, step: int) -> Draw:
        """Return the newest samples; ``device`` and ``step`` are ignored, because the data change by themselves."""
        train, test = np.arange(len(self.data.y_train)), np.arange(len(self.data.y_test))
        train, test = train[-self.samples :], test[-self.test_samples :]
        return Draw(train, self.data.labels("train", train), (), lambda: (test, self.data.labels("test", test), ()))
