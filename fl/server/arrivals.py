"""When the cloud merges whose update: synchronous rounds, or a buffer that fills in virtual time.

Time is arithmetic, so the order of arrivals is the same on every engine. A round is one merge. *Synchronous*: the
cloud waits for everyone, or until the deadline, and drops what comes later. *Buffered* (FedBuff, Nguyen et al. 2022,
arXiv:2106.06639): it merges as soon as ``buffer`` updates have arrived, or at the deadline if that comes first; who is
still at work stays so, and is merged in a later round with the age of its update. As many devices are at work at any
time as a cohort has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from strategies.base import Profile, Task, Update


@dataclass(frozen=True)
class Arrival:
    """An update on its way to the cloud.

    Args:
        at: virtual seconds since the run began.
        version: merges that the cloud had made when the device was sent its task.
        profile: what the device had told, None where the method does not ask.
    """

    at: float
    version: int
    update: Update
    task: Task
    profile: Profile


@dataclass
class Arrivals:
    """The updates under way.

    Args:
        buffer: updates that make a merge; None waits for all (synchronous).
        deadline: the longest that the cloud waits for a merge, virtual seconds.
        now: virtual seconds since the run began.
        version: merges made.
    """

    buffer: int | None = None
    deadline: float = float("inf")
    now: float = 0.0
    version: int = 0
    under_way: list[Arrival] = field(default_factory=list)

    @property
    def waits_for_all(self) -> bool:
        """Whether every update of a round is merged in that round."""
        return self.buffer is None and self.deadline == float("inf")

    def free(self, cohort: Sequence[int], generator: np.random.Generator) -> list[int]:
        """The devices of a cohort that can be given a task: not at work, and no more than a cohort at work in all."""
        busy = {arrival.update.device for arrival in self.under_way}
        idle = [device for device in cohort if device not in busy]
        room = max(0, len(cohort) - len(busy))
        return idle if len(idle) <= room else sorted(int(d) for d in generator.permutation(idle)[:room])

    def expect(self, seconds: float, update: Update, task: Task, profile: Profile) -> Arrival:
        """The update of a device that was given its task now and needs ``seconds``; not yet under way."""
        return Arrival(self.now + seconds, self.version, update, task, profile)

    def merge(self, others: Iterable[float] = ()) -> tuple[list[Arrival], int, float]:
        """Move on to the next merge.

        Args:
            others: seconds of the devices of this round, also of those whose answers are not for merging. Whoever has
                no buffer to fill waits for them too.

        Returns:
            What is merged, in the order of arrival; how many updates came late (synchronous: dropped; buffered: merged
            now, but of an earlier round); the seconds that passed.
        """
        waiting = sorted(self.under_way, key=lambda arrival: (arrival.at, arrival.update.device))
        end = self.now + self.deadline
        if self.buffer is None or not waiting:
            merged = [arrival for arrival in waiting if arrival.at <= end]
            late, self.under_way = len(waiting) - len(merged), []
            last = max([self.now, *(arrival.at for arrival in waiting), *(self.now + s for s in others)])
        else:
            merged = [arrival for arrival in waiting[: self.buffer] if arrival.at <= end]
            late, self.under_way = sum(a.version < self.version for a in merged), waiting[len(merged) :]
            full = len(merged) == min(self.buffer, len(waiting))
            last = end if not full else max([self.now, *(arrival.at for arrival in merged)])
        before, self.now = self.now, min(last, end)
        return merged, late, self.now - before
