"""What every device holds at every step: a pure function of (seed, device, step)."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from partitions.apportion import apportion
from partitions.dataset import Dataset
from partitions.drifts.drift import Drift
from partitions.kinds.kind import Partition
from partitions.proxy import choose_proxy
from partitions.rng import Purpose, rng
from partitions.schedule import Schedule
from partitions.slots import renew, sizes, take

CACHE = 32_768  # device states kept, about 1 kB each
EVERY_STEP = Schedule("every")
MISMATCH = {
    "label": "this drift moves classes: use it with partition 'iid', 'm-classes' or 'dirichlet'",
    "domain": "drift 'subject' moves between domains: use it with partition 'subject'",
}


@dataclass(frozen=True)
class Draw:
    """Indices into the data set's train and test parts."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class State:
    """A device between two drifts: its distribution (K,), the step at which it became so, its train indices."""

    p: np.ndarray
    since: int
    held: np.ndarray


@dataclass(frozen=True, eq=False)
class World:
    """Devices that draw from one pool, and how they drift.

    ``samples``: the least and most training samples of a device. ``proxy_fraction`` of the train part is the cloud's.
    ``drift_fraction`` of a device's samples is replaced at each step of ``schedule``. No device depends on another, and
    nothing is computed for a device that is not asked for. ValueError if the parts do not fit together.
    """

    data: Dataset
    partition: Partition
    drift: Drift
    seed: int
    samples: tuple[int, int] = (50, 150)
    test_samples: int = 100
    proxy_fraction: float = 0.3
    drift_fraction: float = 0.5
    schedule: Schedule = EVERY_STEP
    _states: dict[tuple[int, int], State] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.samples
        if not 1 <= low <= high:
            raise ValueError(f"samples must be two numbers, 1 <= least <= most, not {self.samples}")
        if self.test_samples < 1:
            raise ValueError(f"test samples must be at least 1, not {self.test_samples}")
        for name, value, top in (("proxy", self.proxy_fraction, 0.99), ("drift", self.drift_fraction, 1.0)):
            if not 0 <= value <= top:
                raise ValueError(f"{name} fraction must be in 0..{top}, not {value}")
        if self.partition.cells == "domain" and self.data.domain_train is None:
            raise ValueError(f"partition 'subject' needs domains, which {self.data.name} lacks: use a label partition")
        if self.partition.cells == "domain" and (self.frequencies > 0)[sizes(self._test_cells) == 0].any():
            raise ValueError(
                f"partition 'subject' needs test samples of every domain, and those of {self.data.name} come from "
                "others: use a label partition"
            )
        if self.drift.cells not in (None, self.partition.cells):
            raise ValueError(MISMATCH[self.drift.cells])
        self.partition.check(self.frequencies)
        self.drift.check(self.partition, self.frequencies)

    # the pool

    def proxy(self) -> np.ndarray:
        """Sorted indices of the train samples that the cloud holds."""
        return self._proxy

    def pool(self) -> np.ndarray:
        """Sorted indices of the train samples that devices draw from: all but the proxy."""
        return np.setdiff1d(np.arange(len(self.data.y_train)), self._proxy, assume_unique=True)

    @cached_property
    def _proxy(self) -> np.ndarray:
        return choose_proxy(self.data, self.proxy_fraction, rng(self.seed, Purpose.PROXY))

    @property
    def cell_names(self) -> tuple[str, ...]:
        return self.data.classes if self.partition.cells == "label" else self.data.domains

    @cached_property
    def cell(self) -> np.ndarray:
        """The cell of every train sample (N,)."""
        return np.asarray(self.data.y_train if self.partition.cells == "label" else self.data.domain_train)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """The cells' shares of the pool (K,)."""
        size = sizes(self._train_cells)
        return size / size.sum()

    @cached_property
    def _train_cells(self) -> list[np.ndarray]:
        pool = self.pool()
        return members(pool, self.cell[pool], len(self.cell_names))

    @cached_property
    def _test_cells(self) -> list[np.ndarray]:
        cell = np.asarray(self.data.y_test if self.partition.cells == "label" else self.data.domain_test)
        return members(np.arange(len(cell)), cell, len(self.cell_names))

    # a device

    def size(self, device: int) -> int:
        """How many training samples the device wants at every step; the pool may offer fewer."""
        low, high = self.samples
        return int(rng(self.seed, Purpose.DRAW, device).integers(low, high + 1))

    def distribution(self, device: int, step: int) -> np.ndarray:
        """Probability of each cell (K,)."""
        return self._state(device, step).p

    def draw(self, device: int, step: int) -> Draw:
        """What the device trains on and is tested on now.

        The test part follows the current distribution and stays while that does: ``test_samples``, or all there are.
        """
        state = self._state(device, step)
        counts = apportion(self.test_samples, state.p, sizes(self._test_cells))
        test = take(rng(self.seed, Purpose.TEST, device, state.since), self._test_cells, counts)
        return Draw(state.held.copy(), test)

    def histogram(self, device: int, step: int) -> np.ndarray:
        """How many of the device's training samples lie in each cell (K,)."""
        return np.bincount(self.cell[self._state(device, step).held], minlength=len(self.cell_names))

    # a state follows from the one before; the cache saves time and changes nothing

    def _state(self, device: int, step: int) -> State:
        event, ahead = self._event(step), []
        while (state := self._states.get((device, event))) is None and event:
            ahead.append(event)
            event = self._event(event - 1)
        if state is None:
            state = self._keep(device, 0, self._first(device))
        for event in reversed(ahead):
            state = self._keep(device, event, self._next(device, event, state))
        return state

    def _event(self, step: int) -> int:
        """The latest step at or before ``step`` at which something changed."""
        if step < 0:
            raise ValueError(f"steps count from 0, not {step}")
        return self.schedule.last(step) if self.drift.replaces and self.drift_fraction else 0

    def _first(self, device: int) -> State:
        p = self.partition.initial(rng(self.seed, Purpose.CONTEXT, device), device, self.frequencies)
        return State(p, 0, self._renew(device, 0, p, np.empty(0, np.int64)))

    def _next(self, device: int, step: int, before: State) -> State:
        generator = rng(self.seed, Purpose.DRIFT, device, step)
        p = self.drift.walk(generator, before.p, self.drift_fraction, self.frequencies)
        since = before.since if np.array_equal(p, before.p) else step
        return State(p, since, self._renew(device, step, p, before.held))

    def _renew(self, device: int, step: int, p: np.ndarray, held: np.ndarray) -> np.ndarray:
        generator = rng(self.seed, Purpose.DRAW, device, step)
        return renew(generator, held, self.cell, self._train_cells, p, self.drift_fraction, self.size(device))

    def _keep(self, device: int, event: int, state: State) -> State:
        state.p.flags.writeable = state.held.flags.writeable = False  # shared by all later calls
        if len(self._states) >= CACHE:
            self._states.clear()
        self._states[device, event] = state
        return state


def members(indices: np.ndarray, cell: np.ndarray, count: int) -> list[np.ndarray]:
    """``indices`` (N,) by their ``cell`` (N,): one sorted array for each of ``count`` cells."""
    order = np.argsort(cell, kind="stable")
    return np.split(indices[order], np.cumsum(np.bincount(cell, minlength=count))[:-1])
