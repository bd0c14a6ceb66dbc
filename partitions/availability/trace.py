"""A file says in which rounds each device is online."""

import numpy as np
from pydantic import Field

from partitions.availability.availability import Availability
from partitions.matrix import Matrix, read_matrix


class Trace(Availability):
    """Read a line for each round and a column for each device: 1 where the device is online, else 0.

    After the last line the trace begins anew.
    """

    file: str = Field("", description="file with a line for each round, a column for each client: 1 online, 0 offline")

    @property
    def matrix(self) -> Matrix:
        """Return the numbers of the file; DataError if it cannot be read."""
        return read_matrix(self.file, largest=1)

    @property
    def digests(self) -> list[str]:
        return [self.matrix.digest]

    def check(self, devices: int) -> None:
        if not self.file:
            raise ValueError("trace.file is empty: name a file with a line of 0 and 1 for each round")
        self.matrix.check(devices=devices)

    def online(self, seed: int, server_round: int, devices: np.ndarray) -> np.ndarray:
        values = self.matrix.values
        return np.asarray(values[(server_round - 1) % len(values), devices] > 0)
