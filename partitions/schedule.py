"""The steps at which data drift."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Schedule:
    """Drift steps, read from text (run-config key ``drift.schedule``).

    Args:
        text: ``every`` step, ``every:3`` (steps 3, 6, 9, ...), ``2,5,9`` (these steps) or ``never``. Step 0 is the
            start and never a drift step.

    Raises:
        ValueError: the text has none of these forms.
    """

    text: str = "every"
    period: int = field(init=False, default=0)  # 0: not periodic
    steps: frozenset[int] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        period, steps = parse(self.text)
        object.__setattr__(self, "period", period)
        object.__setattr__(self, "steps", steps)

    def drifts(self, step: int) -> bool:
        """Return whether data drift at ``step``."""
        return step > 0 and (step in self.steps or (self.period > 0 and step % self.period == 0))

    def count(self, step: int) -> int:
        """Return the number of drift steps up to and including ``step``."""
        return max(step, 0) // self.period if self.period else sum(s <= step for s in self.steps)

    def last(self, step: int) -> int:
        """Return the latest drift step up to and including ``step``, or 0."""
        if self.period:
            return step - step % self.period
        return max((s for s in self.steps if s <= step), default=0)


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
        raise ValueError(f"schedule '{text}' is not 'every', 'every:3', 'never' or steps from 1 on like '2,5,9'")
    return period, steps
