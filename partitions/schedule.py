"""The steps at which data drift."""

from dataclasses import dataclass, field, replace

import numpy as np

from partitions.matrix import Matrix, read_matrix

TABLE = "table"


@dataclass(frozen=True)
class Schedule:
    """Drift steps, read from text (run-config key ``drift.schedule``).

    Args:
        text: ``every`` step, ``every:3`` (steps 3, 6, 9, ...), ``2,5,9`` (these steps), ``never``, or ``table:FILE``: a
            line for each step, a column for each device, 1 where the device's data drift. Step 0 is the start and never
            a drift step.
        groups: device d is in group ``d % groups``.
        stagger: steps by which each group drifts after the group before.
        delay: steps by which all drift steps are later.

    Raises:
        ValueError: the text has none of these forms, or a number is out of range.
        partitions.DataError: the file cannot be read.
    """

    text: str = "every"
    groups: int = 1
    stagger: int = 0
    delay: int = 0
    period: int = field(init=False, default=0)  # 0: not periodic
    steps: frozenset[int] = field(init=False, default=frozenset())
    table: Matrix | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.groups < 1 or self.stagger < 0:
            raise ValueError(f"groups must be 1 or more and stagger 0 or more, not {self.groups} and {self.stagger}")
        if self.stagger and self.groups == 1:
            raise ValueError(f"drift.stagger = {self.stagger} needs groups of devices: set drift.groups to 2 or more")
        head, colon, tail = self.text.strip().partition(":")
        if head == TABLE and colon:
            object.__setattr__(self, "table", read_table(tail))
        else:
            period, steps = parse(self.text)
            object.__setattr__(self, "period", period)
            object.__setattr__(self, "steps", steps)

    def of(self, device: int) -> "Schedule":
        """Return the schedule of a device."""
        delay = device % self.groups * self.stagger
        if self.table is None:
            return replace(self, groups=1, stagger=0, delay=delay) if delay else self
        self.table.check(devices=device + 1)
        own = Schedule("never", delay=delay)
        object.__setattr__(own, "steps", frozenset(np.flatnonzero(self.table.values[:, device]).tolist()))
        return own

    def drifts(self, step: int) -> bool:
        """Return whether data drift at ``step``."""
        step -= self.delay
        return step > 0 and (step in self.steps or (self.period > 0 and step % self.period == 0))

    def count(self, step: int) -> int:
        """Return the number of drift steps up to and including ``step``."""
        step -= self.delay
        return max(step, 0) // self.period if self.period else sum(s <= step for s in self.steps)

    def last(self, step: int) -> int:
        """Return the latest drift step up to and including ``step``, or 0."""
        step -= self.delay
        earlier = (s for s in self.steps if s <= step)
        last = max(step, 0) // self.period * self.period if self.period else max(earlier, default=0)
        return last + self.delay if last else 0


def read_table(path: str) -> Matrix:
    """Read the drift steps of each device; ValueError if step 0 is one."""
    table = read_matrix(path, largest=1)
    if table.values[0].any():
        raise ValueError(f"the first line of {table.path} is step 0, the start, at which no data drift: write 0 there")
    return table


def parse(text: str) -> tuple[int, frozenset[int]]:
    """Return the period (0: none) and the single steps of a schedule's text; ValueError as in `Schedule`."""
    words = text.strip()
    if words == "never":
        return 0, frozenset()
    head, colon, tail = words.partition(":")
    try:
        if head == "every":
            period, steps = int(tail) if colon else 1, frozenset[int]()
        else:
            period, steps = 0, frozenset(int(word) for word in words.split(","))
    except ValueError:
        period, steps = -1, frozenset()
    if min(period, *steps, 0) < 0 or 0 in steps or not (period or steps):
        raise ValueError(
            f"schedule '{text}' is not 'every', 'every:3', 'never', steps from 1 on like '2,5,9', or 'table:FILE'"
        )
    return period, steps
