"""When the server aggregates which update: synchronous rounds, or a buffer that fills in virtual time.

Time is arithmetic, so the order of arrivals is the same on every engine. A round is one aggregation. *Synchronous*: the
server waits for all clients, or until the deadline, and drops later updates. *Buffered* (FedBuff, Nguyen et al. 2022,
arXiv:2106.06639): it aggregates as soon as ``buffer`` updates have arrived, or at the deadline if that comes first.
Clients that are still training continue, and are aggregated in a later round with the age of their update. At any time
as many clients train as a cohort has.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from models.submodel import extract
from strategies.core.strategy import Strategy, TrainTask, Update


@dataclass(frozen=True)
class Arrival:
    """An update on its way to the server.

    Args:
        at: virtual seconds since the run began.
        version: aggregations that the server had made when the client was sent its task.
    """

    at: float
    version: int
    update: Update
    task: TrainTask


@dataclass
class Arrivals:
    """The updates under way.

    Args:
        buffer: updates that fill the buffer; None waits for all (synchronous).
        deadline: longest wait of the server for an aggregation, virtual seconds.
        now: virtual seconds since the run began.
        version: aggregations made.
    """

    buffer: int | None = None
    deadline: float = float("inf")
    now: float = 0.0
    version: int = 0
    under_way: list[Arrival] = field(default_factory=list)

    @property
    def waits_for_all(self) -> bool:
        """Whether every update of a round is aggregated in that round."""
        return self.buffer is None and self.deadline == float("inf")

    def free(self, cohort: Sequence[int], generator: np.random.Generator) -> list[int]:
        """Return the clients of a cohort that are not training, so that no more than a cohort trains in all."""
        busy = {arrival.update.client for arrival in self.under_way}
        idle = [client for client in cohort if client not in busy]
        room = max(0, len(cohort) - len(busy))
        return idle if len(idle) <= room else sorted(int(c) for c in generator.permutation(idle)[:room])

    def expect(self, seconds: float, update: Update, task: TrainTask) -> Arrival:
        """Return the update of a client that was sent its task now and needs ``seconds``; not yet under way."""
        return Arrival(self.now + seconds, self.version, update, task)

    def merge(self, others: Iterable[float] = ()) -> tuple[list[Arrival], int, float]:
        """Move on to the next aggregation.

        Args:
            others: seconds of the clients of this round, also of those whose answers are not aggregated. A synchronous
                server waits for them too.

        Returns:
            The updates to aggregate, in the order of arrival; how many updates came late (synchronous: dropped;
            buffered: aggregated now, but of an earlier round); the seconds that passed.
        """
        waiting = sorted(self.under_way, key=lambda arrival: (arrival.at, arrival.update.client))
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


def discount(staleness: int) -> float:
    """Return how much a late update counts: s(t) = 1 / sqrt(1 + t) after t aggregations (FedBuff, arXiv:2106.06639)."""
    return (1 + staleness) ** -0.5


def rebase(
    strategy: Strategy, task: TrainTask, update: Update, staleness: int, never_negative: Container[str] = ()
) -> Update:
    """Return a late update as one of the present model: present part + s(staleness) * (trained - sent).

    Any aggregator can use it; for FedAvg the outcome is FedBuff's, w + mean_k s_k delta_k, with the mean weighted by
    examples. An update that is not late is returned unchanged. Where that would make a variance negative, it moves from
    the present one towards the trained one instead.
    """
    sent = task.start(update.report)
    if not staleness or sent is None:
        return update
    now, s = extract(strategy.present(task, update), strategy.axes, task.model.coverage), discount(staleness)
    state = {
        name: value + s * (update.state[name] - sent[name]) if value.is_floating_point() else update.state[name]
        for name, value in now.items()
    }
    for name, value in state.items():
        if name in never_negative and bool((negative := value < 0).any()):
            state[name] = torch.where(negative, torch.lerp(now[name], update.state[name], s), value)
    return replace(update, state=state)
