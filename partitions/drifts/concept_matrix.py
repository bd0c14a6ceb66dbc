"""Concept drift by a file that says which concept each device has at each step."""

from pydantic import Field

from partitions.drifts.concepts import Concepts
from partitions.drifts.drift import Frame
from partitions.matrix import Matrix, read_matrix


class ConceptMatrix(Concepts):
    """Read a matrix of concept numbers: a line for each step, a column for each device, spaces or commas between them.

    This is FedDrift's form (arXiv:2206.00799, files ``.cp``). The schedule only says when samples are replaced.
    """

    file: str = Field("", description="file of concept numbers: a line for each step, a column for each device")

    @property
    def matrix(self) -> Matrix:
        """Return the numbers of the file; DataError if it cannot be read."""
        return read_matrix(self.file)

    @property
    def digests(self) -> list[str]:
        return [self.matrix.digest]

    def number(self) -> int:
        return self.matrix.largest + 1

    def check_frame(self, frame: Frame) -> None:
        if not self.file:
            raise ValueError("concept-matrix.file is empty: name a file with a line of concept numbers for each step")
        self.matrix.check(frame.steps, frame.devices)
        super().check_frame(frame)

    def concept(self, device: int, step: int, frame: Frame) -> int:
        return self.matrix.at(step, device)
