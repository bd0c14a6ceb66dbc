"""The base class of partitions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

from partitions.components import Section
from partitions.dataset import Dataset

Cells = Literal["label", "domain"]


class Partition(Section, ABC):
    """Choose a device's first distribution over cells; the fields of a subclass are its options.

    Cells are classes (label skew) or domains (feature skew).
    """

    cells: ClassVar[Cells] = "label"
    ignores: ClassVar[tuple[str, ...]] = ()  # general keys that it does not read; setting one of them is an error

    def check(self, frequencies: np.ndarray) -> None:
        """Raise ValueError if the partition is impossible with these ``frequencies`` of cells (K,)."""

    @abstractmethod
    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        """Return the probability of each cell.

        Args:
            generator: the source of all random choices.
            device: the device's number.
            frequencies: each cell's share of the pool (K,).

        Returns:
            Probabilities (K,), 0 where ``frequencies`` is 0.
        """

    def assign(self, data: Dataset, pool: np.ndarray, seed: int, devices: int) -> "Assignment | None":
        """Return which samples each device has at first; None: they are drawn by its distribution.

        Args:
            pool: sorted indices of the training samples that devices may have.
            seed: of all random choices.
            devices: number of devices; 0: as many as the partition likes.

        Raises:
            ValueError: the partition is impossible with this data set.
        """
        return None


class AssigningPartition(Partition):
    """A partition that gives each device certain samples; their class shares are the first distribution."""

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        raise NotImplementedError("the distributions are those of the `Assignment`")

    @abstractmethod
    def assign(self, data: Dataset, pool: np.ndarray, seed: int, devices: int) -> "Assignment": ...


class Assignment(Partition):
    """Certain samples of each device; their class shares are its first distribution.

    Args:
        labels: of all training samples (N,); classes: how many there are.
        train: each device's training samples (n,).
        test: each device's test samples (t,); empty: they are drawn as for other partitions. Devices with test samples
            of their own keep to their own data: a drift gives them other devices' samples only for what they lack.
        names: of the devices, for error messages.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    labels: np.ndarray
    classes: int
    train: Sequence[np.ndarray]
    test: Sequence[np.ndarray] = ()
    names: Sequence[str] = ()

    def initial(self, generator: np.random.Generator, device: int, frequencies: np.ndarray) -> np.ndarray:
        """Return the class shares of a device's samples; after the last device the first one follows."""
        own = self.labels[self.train[device % len(self.train)]]
        return np.bincount(own, minlength=self.classes) / len(own)

    def assign(self, data: Dataset, pool: np.ndarray, seed: int, devices: int) -> "Assignment":
        if devices not in (0, len(self.train)):
            raise ValueError(
                f"devices.count = {devices}, and the data are of {len(self.train)} devices: set it to that"
            )
        for part, samples in (("training", self.train), ("test", self.test)):
            if empty := [device for device, own in enumerate(samples) if not len(own)]:
                name = self.names[empty[0]] if self.names else f"device {empty[0]}"
                raise ValueError(f"{name} has no {part} samples, once those of the cloud are taken out")
        return self
