"""The base class of drifts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from partitions.components import Section
from partitions.corruptions import Corruption
from partitions.dataset import Dataset, Split
from partitions.partitioners.partitioner import Cells, Partition
from partitions.schedule import Schedule


@dataclass(frozen=True)
class Shift:
    """One drift step of one device.

    Args:
        device: the device's number.
        generator: the source of all random choices at this step.
        fraction: how much of the device's data shifts, 0 to 1.
        frequencies: each cell's share of the pool (K,).
        number: number of the device's shifts so far, this one included.
        context: ``context(k)`` is the k-th distribution (K,) that the partition chooses for this device; the device
            started with ``context(0)``.
        unseen: cells that devices can have and the server has no samples of.
    """

    device: int
    generator: np.random.Generator
    fraction: float
    frequencies: np.ndarray
    number: int
    context: Callable[[int], np.ndarray]
    unseen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Frame:
    """What all devices of a world share.

    Args:
        data: the data set.
        seed: seed of all random choices.
        schedule: the steps at which data drift; drift_steps: steps over which a drift is spread.
        unseen: cells that devices can have and the server has no samples of.
        devices, steps: how many of them are asked for; 0: unknown.
    """

    data: Dataset
    seed: int
    schedule: Schedule
    drift_steps: int
    unseen: tuple[int, ...] = ()
    devices: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Held:
    """Samples that a device holds at a step: indices (n,) into ``split`` of the data set, and their labels (n,)."""

    device: int
    step: int
    split: Split
    indices: np.ndarray
    labels: np.ndarray


class Drift(Section):
    """Change a device's data at each drift step; the fields of a subclass are its options.

    A drift changes the distribution over cells (``walk``), corrupts new samples (``alter``), or both. The `World` then
    replaces samples so that they follow. By default both stay the same, and new samples of the same kind replace old
    ones. A drift may also change which label a sample has (``relabel``).
    """

    replaces: ClassVar[bool] = True  # False: devices keep their samples forever
    cells: ClassVar[Cells | None] = None  # the cells that it can change; None: any
    pictures: ClassVar[bool] = False  # True: it corrupts samples, which must be images
    ordered: ClassVar[bool] = False  # True: it moves along the samples of a device's own, in the order of the data set
    ignores: ClassVar[tuple[str, ...]] = ()  # general keys that it does not read; setting one of them is an error
    grouped: ClassVar[bool] = False  # True: it reads the schedule's groups, even if these drift at the same steps

    @property
    def relabels(self) -> bool:
        """Return whether a sample's label depends on the device and the step."""
        return False

    @property
    def digests(self) -> list[str]:
        """Return hashes of the files that the drift reads, for config.toml."""
        return []

    def check(self, partition: Partition, frequencies: np.ndarray) -> None:
        """Raise ValueError if the drift cannot follow ``partition`` or these ``frequencies`` of cells (K,)."""

    def check_frame(self, frame: Frame) -> None:
        """Raise ValueError or DataError if the drift is impossible with this data set, schedule or number of steps."""

    def start(self, frequencies: np.ndarray, frame: Frame) -> np.ndarray:
        """Return the ``frequencies`` of cells (K,) from which the partition chooses; 0 for a cell that comes later."""
        return frequencies

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        """Return the next probabilities (K,), 0 where ``shift.frequencies`` is 0."""
        return p

    def alter(self, corruption: Corruption | None, shift: Shift) -> Corruption | None:
        """Return the corruption of samples that enter from now on; None: as in the data set."""
        return corruption

    def stretch(self, rows: int, number: int) -> slice | None:
        """Return which of its own ``rows`` samples a device has after ``number`` shifts; None: what the partition says.

        Samples are in the order of the data set. Its test samples are those of the same part of their order.
        """
        return None

    def concept(self, device: int, step: int, frame: Frame) -> int:
        """Return which labels and looks samples have on the device now; 0: those of the data set."""
        return 0

    def relabel(self, held: Held, frame: Frame) -> np.ndarray:
        """Return the labels (n,) that samples have on the device now; by default those of the data set."""
        return held.labels

    def looks(self, held: Held, frame: Frame) -> list[tuple[np.ndarray, Corruption, int]]:
        """Return which samples look different now: their positions in ``held``, a corruption, and a number for it.

        This replaces what `alter` says of these samples. A sample has the same noise whenever it has the same number.
        """
        return []
