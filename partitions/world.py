"""The simulated world: which samples every device has at every step, a pure function of (seed, device, step)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest

import numpy as np

from partitions.apportion import apportion
from partitions.corruptions import CorruptedRows, Corruption, Corruptions
from partitions.dataset import Dataset, Split
from partitions.drifts.drift import Drift, Frame, Held, Shift
from partitions.partitioners.partitioner import Assignment, Partition
from partitions.proxy import choose_proxy, matching
from partitions.rng import Purpose, rng
from partitions.sampling import renew_samples, replace_samples, sample, sample_own_first, sizes, without
from partitions.schedule import Schedule
from partitions.states import Draw, State, Target, mean

CACHE = 32_768  # device states in memory, about 1 kB each
EVERY_STEP = Schedule("every")
FITTING = {"label": "'iid', 'm-classes' or 'dirichlet'", "domain": "'subject'"}  # partitions by the cells they use


@dataclass(frozen=True, eq=False)
class World:
    """Devices that draw samples from one pool, and the drift of their data.

    A *cell* is a class or a domain, as the partition chooses; a device has a distribution over cells. At each step of
    the schedule the drift changes the distribution, and a part of the device's samples is replaced. If ``drift_steps``
    is above 1, both happen gradually: the distribution changes linearly, and shifts may overlap. Devices do not depend
    on each other, and a device that nobody asks for costs nothing.

    Args:
        data: the data set.
        partition: chooses the first distribution of every device.
        drift: changes distributions or corrupts samples.
        seed: seed of all random choices.
        samples: smallest and largest number of training samples of a device.
        samples_skew: how unequal these numbers are, 0 (uniform) or more: ``min + (max + 1 - min) * u ** (1 + skew)``,
            rounded down, with u uniform in 0 to 1.
        test_samples: number of test samples of a device.
        proxy_fraction: share of the training samples that only the server uses, 0 to 0.99.
        drift_fraction: share of a device's samples that a shift replaces, 0 to 1.
        schedule: the steps at which data drift.
        drift_steps: number of steps over which a shift is spread; 1: abrupt.
        labelled: training samples of a device that have a label at each step; 0: all.
        proxy_domains: patterns of the domains that the server has samples of; empty: all.
        unseen_classes: patterns of the classes that the server has no samples of.
        client_domains: patterns of the domains that devices have samples of; empty: all.
        devices, steps: how many will be asked for: partitions may assign samples to each device, and files must have
            enough of them; 0: unknown.

    Raises:
        DataError: a file that the drift reads is missing, damaged or too short.
        ValueError: a value is out of range, or data set, partition and drift do not fit together.
    """

    data: Dataset
    partition: Partition
    drift: Drift
    seed: int
    samples: tuple[int, int] = (50, 150)
    samples_skew: float = 0.0
    test_samples: int = 100
    proxy_fraction: float = 0.3
    drift_fraction: float = 0.5
    schedule: Schedule = EVERY_STEP
    drift_steps: int = 1
    labelled: int = 0
    proxy_domains: str = ""
    unseen_classes: str = ""
    client_domains: str = ""
    devices: int = 0
    steps: int = 0
    _states: dict[tuple[int, int], State] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        partition, drift = type(self.partition).__name__, type(self.drift).__name__
        low, high = self.samples
        if not 1 <= low <= high:
            raise ValueError(f"data.samples-min and data.samples-max must be 1 <= min <= max, not {self.samples}")
        if self.test_samples < 1:
            raise ValueError(f"data.test-samples must be at least 1, not {self.test_samples}")
        if self.samples_skew < 0:
            raise ValueError(f"data.samples-skew must be 0 or more, not {self.samples_skew}")
        if self.labelled < 0:
            raise ValueError(f"data.labelled must be 0 or more, not {self.labelled}")
        if self.drift_steps < 1:
            raise ValueError(f"drift.steps must be at least 1, not {self.drift_steps}")
        if not 0 <= self.proxy_fraction <= 0.99:
            raise ValueError(f"data.proxy-fraction must be 0 to 0.99, not {self.proxy_fraction}")
        if not 0 <= self.drift_fraction <= 1:
            raise ValueError(f"drift.fraction must be 0 to 1, not {self.drift_fraction}")
        if self.partition.cells == "domain" and self.data.domain_train is None:
            raise ValueError(
                f"partition {partition} needs domains, which {self.data.name} lacks: set data.partition to "
                f"{FITTING['label']}"
            )
        if self.partition.cells == "domain" and (self.frequencies > 0)[sizes(self._test_cells) == 0].any():
            raise ValueError(
                f"partition {partition} needs test samples of every domain, and those of {self.data.name} come from "
                f"other domains: set data.partition to {FITTING['label']}"
            )
        if self.drift.cells not in (None, self.partition.cells):
            raise ValueError(
                f"drift {drift} changes shares of {self.drift.cells}s, and partition {partition} chooses shares of "
                f"{self.partition.cells}s: set data.partition to {FITTING[self.drift.cells]}, or use another drift.kind"
            )
        if self.drift.pictures and len(self.data.input_shape) != 3:
            raise ValueError(
                f"drift {drift} needs images, and samples of {self.data.name} have shape {self.data.input_shape}: use "
                "another drift.kind or data.name"
            )
        self.drift.check_frame(self.frame)
        self.partition.check(self.start)
        self.drift.check(self._assignment or self.partition, self.start)
        if self.drift.ordered and not self._own:
            raise ValueError(
                f"drift {drift} moves along a device's own samples, and partition {partition} draws them: set "
                "data.partition to 'none'"
            )
        kind = type(self.drift)
        same = all(
            getattr(kind, part) is getattr(Drift, part) for part in ("walk", "alter", "relabel", "looks", "stretch")
        )
        if self._own and kind.replaces and same:
            raise ValueError(
                f"drift {drift} only draws new samples, and devices of partition {partition} have no other ones: use "
                "another drift.kind"
            )

    @cached_property
    def frame(self) -> Frame:
        """Return what all devices share."""
        seen = np.bincount(self.cell[self._proxy], minlength=len(self.cell_names)) > 0
        unseen = tuple(np.flatnonzero(~seen & (self.frequencies > 0)).tolist())
        return Frame(self.data, self.seed, self.schedule, self.drift_steps, unseen, self.devices, self.steps)

    @cached_property
    def start(self) -> np.ndarray:
        """Return each cell's share of the samples that devices have before the first drift (K,)."""
        return self.drift.start(self.frequencies, self.frame)

    # The pool

    def proxy(self) -> np.ndarray:
        """Return sorted indices of the training samples that only the server uses."""
        return self._proxy

    def pool(self) -> np.ndarray:
        """Return sorted indices of the training samples that devices draw from.

        These are all except the proxy. Samples of unseen classes in a recording of the proxy belong to nobody.
        """
        pool = np.setdiff1d(np.arange(len(self.data.y_train)), self._recorded, assume_unique=True)
        return pool[self._of_clients(self.data.domain_train, pool)]

    def _of_clients(self, domain: np.ndarray | None, indices: np.ndarray) -> np.ndarray:
        """Return whether devices may have samples (n,), given the domain of all samples (N,)."""
        chosen = matching(self.client_domains, self.data.domains, "data.client-domains", "domains")
        if domain is None or not self.client_domains:
            return np.ones(len(indices), bool)
        return chosen[domain[indices]]

    @cached_property
    def _proxy(self) -> np.ndarray:
        return self._recorded[self._allowed[self._recorded]]

    @cached_property
    def _recorded(self) -> np.ndarray:
        """Return sorted indices of the samples in the recordings of the proxy."""
        if self.data.proxy is not None:
            return self.data.proxy
        return choose_proxy(self.data, self.proxy_fraction, rng(self.seed, Purpose.PROXY), self._allowed)

    @cached_property
    def _allowed(self) -> np.ndarray:
        """Return whether the server may have each training sample (N,)."""
        data = self.data
        allowed = ~matching(self.unseen_classes, data.classes, "data.unseen-classes", "classes")[data.y_train]
        if self.proxy_domains:
            seen = matching(self.proxy_domains, data.domains, "data.proxy-domains", "domains")
            allowed &= seen[data.domain_train]
        return allowed

    @cached_property
    def _assignment(self) -> Assignment | None:
        return self.partition.assign(self.data, self.pool(), self.seed, self.devices)

    @property
    def _own(self) -> bool:
        """Whether devices have data of their own: samples that no other device has, for training and for the test."""
        return self._assignment is not None and len(self._assignment.test) > 0

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Return the names of the cells (K,)."""
        return self.data.classes if self.partition.cells == "label" else self.data.domains

    @cached_property
    def cell(self) -> np.ndarray:
        """Return the cell of every training sample (N,)."""
        return np.asarray(self.data.y_train if self.partition.cells == "label" else self.data.domain_train)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Return each cell's share of the pool (K,)."""
        size = sizes(self._train_cells)
        return size / size.sum()

    @cached_property
    def _train_cells(self) -> list[np.ndarray]:
        pool = self.pool()
        return group_by_cell(pool, self.cell[pool], len(self.cell_names))

    @cached_property
    def _test_cells(self) -> list[np.ndarray]:
        indices = np.arange(len(self._test_cell))
        indices = indices[self._of_clients(self.data.domain_test, indices)]
        return group_by_cell(indices, self._test_cell[indices], len(self.cell_names))

    @property
    def _test_cell(self) -> np.ndarray:
        return np.asarray(self.data.y_test if self.partition.cells == "label" else self.data.domain_test)

    # A device

    def size(self, device: int) -> int:
        """Return a device's number of training samples at every step; it gets fewer if the pool is too small."""
        if self._assignment:
            own = len(self._assignment.train[device])
            stretch = self.drift.stretch(own, 0)
            return stretch.stop - stretch.start if stretch else own
        low, high = self.samples
        generator = rng(self.seed, Purpose.DRAW, device)
        if not self.samples_skew:
            return int(generator.integers(low, high + 1))
        return low + int((high + 1 - low) * generator.random() ** (1 + self.samples_skew))

    @property
    def most_samples(self) -> int:
        """Return the largest number of training samples of a device."""
        return max(map(self.size, range(len(self._assignment.train)))) if self._assignment else self.samples[1]

    def distribution(self, device: int, step: int) -> np.ndarray:
        """Return the probability of each cell (K,)."""
        return self._state(device, step).p

    def draw(self, device: int, step: int) -> Draw:
        """Return a device's samples at a step.

        The test samples follow the current distribution, and stay the same while it does. There are ``test_samples`` of
        them, or fewer if the cells of the distribution do not contain enough. A device with data of its own has its own
        test samples until its distribution changes, and then as many that follow the distribution.
        """
        state, event = self._state(device, step), self._event(device, step)

        def test() -> tuple[np.ndarray, np.ndarray, Corruptions]:
            drawn = self._test(device, state)
            corruptions = self._corruptions(device, event, 1, drawn, np.ones(len(drawn), bool))
            labels, looks = self._held(device, step, "test", drawn)
            return drawn, labels, corruptions + looks

        labels, corruptions = self._held(device, step, "train", state.indices)
        if 0 < self.labelled < len(labels):
            rank = rng(self.seed, Purpose.LABELLED, device).random(len(self.cell))[state.indices]
            labels = np.where(rank.argsort().argsort() < self.labelled, labels, -1)
        if self.drift.pictures:
            for entered in np.unique(state.entered).tolist():
                corruptions += self._corruptions(device, entered, 0, state.indices, state.entered == entered)
        return Draw(state.indices.copy(), labels, corruptions, test)

    def stream(self, device: int, step: int, count: int) -> Draw:
        """Return new training samples that a device meets at a step, whatever it holds: about ``count``.

        They follow its current distribution, and are drawn anew at every step. The test samples are those of `draw`.
        """
        state, event = self._state(device, step), self._event(device, step)
        counts = apportion(count, state.p, sizes(self._train_cells))
        generator = rng(self.seed, Purpose.STREAM, device, step)
        indices = generator.permutation(sample(generator, self._train_cells, counts))
        labels, looks = self._held(device, step, "train", indices)
        corruptions = self._corruptions(device, event, 0, indices, np.ones(len(indices), bool))
        return Draw(indices, labels, corruptions + looks, self.draw(device, step).draw_test)

    def drifts(self, device: int, step: int) -> bool:
        """Return whether the distribution of a device's samples, their looks or their labels change at a step."""
        if not step:
            return False
        before, now = self._state(device, step - 1), self._state(device, step)
        if not np.array_equal(before.p, now.p) or before.corruption != now.corruption:
            return True
        splits: dict[Split, np.ndarray] = {"train": now.indices, "test": self._test(device, now)}
        for split, indices in splits.items():
            labels = self.data.labels(split, indices)
            former, held = (Held(device, at, split, indices, labels) for at in (step - 1, step))
            if not np.array_equal(self.drift.relabel(former, self.frame), self.drift.relabel(held, self.frame)):
                return True
            pairs = zip_longest(self.drift.looks(former, self.frame), self.drift.looks(held, self.frame))
            if not all(a and b and a[1] == b[1] and np.array_equal(a[0], b[0]) for a, b in pairs):
                return True
        return False

    def encounters(self, device: int, step: int) -> bool:
        """Return whether a device has a cell or concept now that it never had; at step 0: that the cloud never had."""
        new = self._met(device, step)
        if not step:
            new -= {("cell", k) for k in range(len(self.cell_names)) if k not in self.frame.unseen} | {("concept", 0)}
        for before in reversed(range(step)):
            if not new:  # mostly at once: a device that did not drift had the same a step ago
                break
            new -= self._met(device, before)
        return bool(new)

    def _met(self, device: int, step: int) -> set[tuple[str, int]]:
        cells = {("cell", k) for k in np.flatnonzero(self._state(device, step).p).tolist()}
        return cells | {("concept", self.drift.concept(device, step, self.frame))}

    def _held(self, device: int, step: int, split: Split, indices: np.ndarray) -> tuple[np.ndarray, Corruptions]:
        """Return labels (n,) and corruptions of samples, as the drift changes them at this step."""
        those = Held(device, step, split, indices, self.data.labels(split, indices))
        looks = tuple(
            self._corrupted(device, number, int(split == "test"), indices, rows, corruption)
            for rows, corruption, number in self.drift.looks(those, self.frame)
        )
        return self.drift.relabel(those, self.frame), looks

    def _test(self, device: int, state: State) -> np.ndarray:
        cells, total, own = self._test_cells, self.test_samples, np.empty(0, np.int64)
        if self._assignment and self._own:
            own = self._assignment.test[device]
            total, recorded = len(own), len(self._assignment.train[device])
            if stretch := self.drift.stretch(recorded, self.schedule.of(device).count(state.since)):
                first = stretch.start * total // recorded
                return own[first : max(first + 1, -(-stretch.stop * total // recorded))]
            if not state.since:
                return own
        counts = apportion(total, state.p, sizes(cells))
        generator = rng(self.seed, Purpose.TEST, device, state.since)
        if not len(own):
            return sample(generator, cells, counts)
        mine = group_by_cell(own, self._test_cell[own], len(cells))
        others = [without(cell, some) for cell, some in zip(cells, mine, strict=True)]
        return sample_own_first(generator, mine, others, counts)

    def _corruptions(self, device: int, event: int, split: int, samples: np.ndarray, chosen: np.ndarray) -> Corruptions:
        """Return the corruption of the ``chosen`` (n,) ones of ``samples`` (n,) if they entered at step ``event``."""
        corruption = self._state(device, event).corruption
        if corruption is None or not corruption.severity:
            return ()
        return (self._corrupted(device, event, split, samples, np.flatnonzero(chosen), corruption),)

    def _corrupted(
        self, device: int, number: int, split: int, samples: np.ndarray, rows: np.ndarray, corruption: Corruption
    ) -> CorruptedRows:
        """Return a corruption of some ``rows`` of ``samples`` (n,); ``number``: an address of its noise."""
        address = self.seed, Purpose.CORRUPTION, device, number, split
        return CorruptedRows(rows, corruption, [(*address, index) for index in samples[rows].tolist()])

    def histogram(self, device: int, step: int) -> np.ndarray:
        """Return how many of the device's training samples are in each cell (K,)."""
        return np.bincount(self.cell[self._state(device, step).indices], minlength=len(self.cell_names))

    def history(self, devices: Sequence[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distributions (len(devices), steps, K) and severities (len(devices), steps), for plots."""
        states = [[self._state(device, step) for step in range(steps)] for device in devices]
        severity = [[state.corruption.severity if state.corruption else 0.0 for state in row] for row in states]
        return np.array([[state.p for state in row] for row in states]), np.array(severity)

    # A state follows from the state before. The cache only saves time.

    def _state(self, device: int, step: int) -> State:
        event, missing = self._event(device, step), []
        while (state := self._states.get((device, event))) is None and event:
            missing.append(event)
            event = self._event(device, event - 1)
        if state is None:
            state = self._remember(device, 0, self._first(device))
        for event in reversed(missing):
            state = self._remember(device, event, self._next(device, event, state))
        return state

    def _event(self, device: int, step: int) -> int:
        """Return the latest step up to and including ``step`` at which something changed."""
        if step < 0:
            raise ValueError(f"steps count from 0, not {step}")
        last = self.schedule.of(device).last(step) if self.drift.replaces and self.drift_fraction else 0
        return min(step, last + self.drift_steps - 1) if last else 0

    def _context(self, device: int, k: int) -> np.ndarray:
        """Return the k-th distribution (K,) that the partition chooses for a device."""
        address = (Purpose.CONTEXT, device, k) if k else (Purpose.CONTEXT, device)
        chooser = self._assignment or self.partition
        p = chooser.initial(rng(self.seed, *address), device + k, self.start)
        return self._checked(p, chooser)

    def _first(self, device: int) -> State:
        p = self._context(device, 0)
        if moved := self._moved(device, 0):
            p, indices = moved
        elif self._assignment:
            indices = self._assignment.train[device].copy()
        else:
            indices = self._replace(device, 0, p, np.empty(0, np.int64), self.drift_fraction)
        return State(p, 0, None, indices, np.zeros(len(indices), np.int32), (Target(p, None),) * self.drift_steps)

    def _next(self, device: int, step: int, before: State) -> State:
        target, schedule = before.targets[-1], self.schedule.of(device)
        if moved := self._moved(device, step):
            return State(moved[0], step, None, moved[1], np.full(len(moved[1]), step, np.int32), before.targets)
        if schedule.drifts(step):
            generator, number = rng(self.seed, Purpose.DRIFT, device, step), schedule.count(step)
            context = partial(self._context, device)
            shift = Shift(
                device, generator, self.drift_fraction, self.frequencies, number, context, self.frame.unseen
            )  # fmt: skip
            p = self._checked(self.drift.walk(target.p, shift), self.drift)
            target = Target(p, self.drift.alter(target.corruption, shift))
        targets = (*before.targets, target)[-self.drift_steps :]
        p, corruption = mean(targets)
        since = before.since if np.array_equal(p, before.p) else step
        moves = schedule.count(step) - schedule.count(step - self.drift_steps)
        fraction = self.drift_fraction * moves / self.drift_steps
        known = dict(zip(before.indices.tolist(), before.entered.tolist(), strict=True))
        if self._assignment and self._own:
            kept, new = renew_samples(
                rng(self.seed, Purpose.DRAW, device, step), before.indices, self.cell, self._train_cells,
                self._assignment.train[device], p, fraction,
            )  # fmt: skip
            indices = np.concatenate([kept, new])
            known |= dict.fromkeys(new.tolist(), step)
        else:
            indices = self._replace(device, step, p, before.indices, fraction)
        entered = np.array([known.get(index, step) for index in indices.tolist()], np.int32)
        return State(p, since, corruption, indices, entered, targets)

    def _moved(self, device: int, step: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the cells' shares (K,) and the indices (n,) of the stretch of its own samples that a device has now.

        None if the drift does not move along a device's samples.
        """
        if not self._assignment:
            return None
        own = self._assignment.train[device]
        stretch = self.drift.stretch(len(own), self.schedule.of(device).count(step))
        if stretch is None:
            return None
        held = np.bincount(self.cell[own[stretch]], minlength=len(self.cell_names))
        return held / held.sum(), own[stretch].copy()

    def _checked(self, p: np.ndarray, by: Partition | Drift) -> np.ndarray:
        """Return ``p`` if it is a distribution over the cells, else raise ValueError."""
        if np.shape(p) == self.frequencies.shape and np.all(np.greater_equal(p, 0)) and abs(np.sum(p) - 1) < 1e-6:
            return p
        chose = np.array2string(np.asarray(p), threshold=8)
        raise ValueError(
            f"{type(by).__name__} chose {chose}: return an array of {len(self.frequencies)} probabilities, 0 or more, "
            "that sum to 1"
        )

    def _replace(self, device: int, step: int, p: np.ndarray, indices: np.ndarray, fraction: float) -> np.ndarray:
        generator = rng(self.seed, Purpose.DRAW, device, step)
        return replace_samples(generator, indices, self.cell, self._train_cells, p, fraction, self.size(device))

    def _remember(self, device: int, event: int, state: State) -> State:
        for array in (state.p, state.indices, state.entered):
            array.flags.writeable = False  # all later calls share it
        if len(self._states) >= CACHE:
            self._states.clear()
        self._states[device, event] = state
        return state


def group_by_cell(indices: np.ndarray, cell: np.ndarray, count: int) -> list[np.ndarray]:
    """Split ``indices`` (N,) by their ``cell`` (N,) into ``count`` sorted arrays."""
    order = np.argsort(cell, kind="stable")
    return np.split(indices[order], np.cumsum(np.bincount(cell, minlength=count))[:-1])
