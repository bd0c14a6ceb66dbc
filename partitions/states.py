"""What a device has at a step: its samples for others to use, and the state from which they follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from partitions.corruptions import Corruption, Corruptions


@dataclass(frozen=True)
class Draw:
    """A device's samples at a step: indices into the data set, labels, and corruptions (`partitions.corrupt`).

    The test samples are drawn on first use, because most messages are about training.

    Args:
        train: indices of training samples (n,).
        train_labels: their labels on the device (n,), which a drift may change; -1: the device does not know it.
        train_corruptions: their corruptions.
        draw_test: returns indices of test samples (t,), their labels (t,) and their corruptions.
    """

    train: np.ndarray
    train_labels: np.ndarray
    train_corruptions: Corruptions
    draw_test: Callable[[], tuple[np.ndarray, np.ndarray, Corruptions]]

    @cached_property
    def _test(self) -> tuple[np.ndarray, np.ndarray, Corruptions]:
        return self.draw_test()

    @property
    def test(self) -> np.ndarray:
        """Return the indices of the test samples (t,)."""
        return self._test[0]

    @property
    def test_labels(self) -> np.ndarray:
        """Return the labels of the test samples on the device (t,)."""
        return self._test[1]

    @property
    def test_corruptions(self) -> Corruptions:
        """Return the corruptions of the test samples."""
        return self._test[2]


@dataclass(frozen=True)
class Target:
    """Where the drift of one step leads: the distribution over cells (K,), and the corruption of new samples."""

    p: np.ndarray
    corruption: Corruption | None


@dataclass(frozen=True)
class State:
    """A device after a step at which something changed.

    Args:
        p: distribution over cells (K,).
        since: the step at which this distribution began.
        corruption: of the samples that enter now.
        indices: the training samples (n,).
        entered: the step at which each training sample entered (n,).
        targets: the targets of the last `World.drift_steps` steps.
    """

    p: np.ndarray
    since: int
    corruption: Corruption | None
    indices: np.ndarray
    entered: np.ndarray
    targets: tuple[Target, ...]


def mean(targets: Sequence[Target]) -> tuple[np.ndarray, Corruption | None]:
    """Average distributions (K,) and severities of targets; equal distributions are returned unchanged."""
    last = targets[-1]
    equal = all(np.array_equal(target.p, last.p) for target in targets)
    p = last.p if equal else np.mean([target.p for target in targets], axis=0)
    if last.corruption is None:
        return p, None
    severity = np.mean([target.corruption.severity if target.corruption else 0.0 for target in targets])
    return p, replace(last.corruption, severity=float(severity))
