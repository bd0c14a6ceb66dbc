"""What every device holds at every step: a pure function of (seed, device, step)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from partitions.apportion import apportion
from partitions.corruptions import Change, Look, Part
from partitions.dataset import Dataset
from partitions.drifts.drift import Drift, Shift
from partitions.partitioners.partitioner import Partition
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
    """Indices into the data set's train and test parts, and how the device sees those samples (`partitions.apply`).

    The test part is drawn when it is asked for: most messages are about training.
    """

    train: np.ndarray
    train_look: Look
    draw_test: Callable[[], tuple[np.ndarray, Look]]

    @cached_property
    def _tested(self) -> tuple[np.ndarray, Look]:
        return self.draw_test()

    @property
    def test(self) -> np.ndarray:
        return self._tested[0]

    @property
    def test_look(self) -> Look:
        return self._tested[1]


@dataclass(frozen=True)
class Goal:
    """What a device is moving to: a distribution (K,) and a change of its samples."""

    p: np.ndarray
    change: Change | None


@dataclass(frozen=True)
class State:
    """A device after an event.

    Its distribution ``p`` (K,) and the step ``since`` which it is so; its ``change``; its train indices ``held`` (n,)
    and the steps ``born`` (n,) at which they entered; its ``goals`` at the last `World.drift_steps` steps.
    """

    p: np.ndarray
    since: int
    change: Change | None
    held: np.ndarray
    born: np.ndarray
    goals: tuple[Goal, ...]


@dataclass(frozen=True, eq=False)
class World:
    """Devices that draw from one pool, and how they drift.

    ``samples``: the least and most training samples of a device. ``proxy_fraction`` of the train part is the cloud's.
    ``drift_fraction`` of a device's samples is replaced at each step of ``schedule``: at once if ``drift_steps`` is 1,
    else in equal parts at that step and the next ones, while the device passes from the old distribution to the new one
    in a straight line; moves may overlap. No device depends on another, and nothing is computed for a device that is
    not asked for. ValueError if the parts do not fit together.
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
    drift_steps: int = 1
    _states: dict[tuple[int, int], State] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.samples
        if not 1 <= low <= high:
            raise ValueError(f"samples must be two numbers, 1 <= least <= most, not {self.samples}")
        if self.test_samples < 1:
            raise ValueError(f"test samples must be at least 1, not {self.test_samples}")
        if self.drift_steps < 1:
            raise ValueError(f"a shift must take at least 1 step, not {self.drift_steps}")
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
        if self.drift.pictures and len(self.data.input_shape) != 3:
            raise ValueError(
                f"drift 'feature' alters pictures, and samples of {self.data.name} have shape {self.data.input_shape}: "
                "use another drift or data set"
            )
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
        state, event = self._state(device, step), self._event(step)

        def test() -> tuple[np.ndarray, Look]:
            counts = apportion(self.test_samples, state.p, sizes(self._test_cells))
            drawn = take(rng(self.seed, Purpose.TEST, device, state.since), self._test_cells, counts)
            return drawn, self._seen(device, event, 1, drawn, np.ones(len(drawn), bool))

        if not self.drift.pictures:
            return Draw(state.held.copy(), (), test)
        seen = [self._seen(device, born, 0, state.held, state.born == born) for born in np.unique(state.born).tolist()]
        return Draw(state.held.copy(), sum(seen, ()), test)

    def _seen(self, device: int, event: int, split: int, samples: np.ndarray, chosen: np.ndarray) -> Look:
        """How the ``chosen`` (n,) ones of ``samples`` (n,) look if they entered at ``event``."""
        change = self._state(device, event).change
        if change is None or not change.severity:
            return ()
        rows, where = np.flatnonzero(chosen), (self.seed, Purpose.LOOK, device, event, split)
        return (Part(rows, change, [(*where, sample) for sample in samples[rows].tolist()]),)

    def histogram(self, device: int, step: int) -> np.ndarray:
        """How many of the device's training samples lie in each cell (K,)."""
        return np.bincount(self.cell[self._state(device, step).held], minlength=len(self.cell_names))

    def history(self, devices: Sequence[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
        """What drifts, for a plot: shares (len(devices), steps, K) of the cells, severities (len(devices), steps)."""
        states = [[self._state(device, step) for step in range(steps)] for device in devices]
        severity = [[state.change.severity if state.change else 0.0 for state in row] for row in states]
        return np.array([[state.p for state in row] for row in states]), np.array(severity)

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
        last = self.schedule.last(step) if self.drift.replaces and self.drift_fraction else 0
        return min(step, last + self.drift_steps - 1) if last else 0

    def _context(self, device: int, k: int) -> np.ndarray:
        """The k-th distribution that the partition chooses for a device."""
        where = (Purpose.CONTEXT, device, k) if k else (Purpose.CONTEXT, device)
        p = self.partition.initial(rng(self.seed, *where), device + k, self.frequencies)
        return self._checked(p, self.partition)

    def _first(self, device: int) -> State:
        p = self._context(device, 0)
        held = self._renew(device, 0, p, np.empty(0, np.int64), self.drift_fraction)
        return State(p, 0, None, held, np.zeros(len(held), np.int32), (Goal(p, None),) * self.drift_steps)

    def _next(self, device: int, step: int, before: State) -> State:
        goal = before.goals[-1]
        if self.schedule.drifts(step):
            generator, number = rng(self.seed, Purpose.DRIFT, device, step), self.schedule.count(step)
            context = partial(self._context, device)
            shift = Shift(device, generator, self.drift_fraction, self.frequencies, number, context)
            p = self._checked(self.drift.walk(goal.p, shift), self.drift)
            goal = Goal(p, self.drift.alter(goal.change, shift))
        goals = (*before.goals, goal)[-self.drift_steps :]
        p, change = between(goals)
        since = before.since if np.array_equal(p, before.p) else step
        moves = self.schedule.count(step) - self.schedule.count(step - self.drift_steps)
        held = self._renew(device, step, p, before.held, self.drift_fraction * moves / self.drift_steps)
        entered = dict(zip(before.held.tolist(), before.born.tolist(), strict=True))
        born = np.array([entered.get(sample, step) for sample in held.tolist()], np.int32)
        return State(p, since, change, held, born, goals)

    def _checked(self, p: np.ndarray, by: Partition | Drift) -> np.ndarray:
        """What a partition or a drift chose, if it is a distribution."""
        if np.shape(p) == self.frequencies.shape and np.all(np.greater_equal(p, 0)) and abs(np.sum(p) - 1) < 1e-6:
            return p
        chose = np.array2string(np.asarray(p), threshold=8)
        raise ValueError(
            f"{type(by).__name__} chose {chose}: not a share, 0 or more, of each of {len(self.frequencies)} cells that "
            "sum to 1"
        )

    def _renew(self, device: int, step: int, p: np.ndarray, held: np.ndarray, fraction: float) -> np.ndarray:
        generator = rng(self.seed, Purpose.DRAW, device, step)
        return renew(generator, held, self.cell, self._train_cells, p, fraction, self.size(device))

    def _keep(self, device: int, event: int, state: State) -> State:
        for array in (state.p, state.held, state.born):
            array.flags.writeable = False  # shared by all later calls
        if len(self._states) >= CACHE:
            self._states.clear()
        self._states[device, event] = state
        return state


def members(indices: np.ndarray, cell: np.ndarray, count: int) -> list[np.ndarray]:
    """``indices`` (N,) by their ``cell`` (N,): one sorted array for each of ``count`` cells."""
    order = np.argsort(cell, kind="stable")
    return np.split(indices[order], np.cumsum(np.bincount(cell, minlength=count))[:-1])


def between(goals: Sequence[Goal]) -> tuple[np.ndarray, Change | None]:
    """The mean of the ``goals``, exactly the last one if they agree."""
    last = goals[-1]
    still = all(np.array_equal(goal.p, last.p) for goal in goals)
    p = last.p if still else np.mean([goal.p for goal in goals], axis=0)
    if last.change is None:
        return p, None
    severity = np.mean([goal.change.severity if goal.change else 0.0 for goal in goals])
    return p, replace(last.change, severity=float(severity))
