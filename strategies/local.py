"""The two references without a network: NA, no adaptation, and LA, local adaptation (ECLM 7.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from strategies.base import Profile, Strategy, Task, Update


class NoRounds(Strategy):
    """Nobody is ever asked to train."""

    def cohort(self, round_: int) -> list[int]:
        return []

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        return {}

    def absorb(
        self, round_: int, tasks: Mapping[int, Task], updates: Sequence[Update], profiles: Sequence[Profile]
    ) -> None:
        pass


class NoAdaptation(NoRounds):
    """NA: devices use the cloud model as it was trained. With fine-tuning: each step starts again from that model."""

    reports = {"na": "delivered", "na+ft": "adapted"}

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        return self._whole([p.device for p in profiles], self.plan.adapt_epochs)


class NoAdaptationPrior(NoAdaptation):
    """NA whose devices correct for their class shares, as in `strategies.eclm_plus`: what that is worth by itself."""

    reports = {"na-prior": "delivered", "na-prior+ft": "adapted"}
    masked = "prior"


@dataclass
class LocalAdaptation(Strategy):
    """LA: at every step each device trains its own model on its fresh data, and never hears from the cloud again."""

    reports = {"la": "delivered"}
    equipped: set[int] = field(default_factory=set, init=False)  # devices that hold a model of their own

    def cohort(self, round_: int) -> list[int]:
        return list(range(self.plan.devices)) if self.plan.starts_step(round_) else []

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        start = self._whole([p.device for p in profiles], self.plan.adapt_epochs, keep=True, upload=False)
        return {d: replace(task, state=None) if d in self.equipped else task for d, task in start.items()}

    def absorb(
        self, round_: int, tasks: Mapping[int, Task], updates: Sequence[Update], profiles: Sequence[Profile]
    ) -> None:
        self.equipped |= {u.device for u in updates}

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        whole = self._whole([p.device for p in profiles], 0)
        return {d: replace(task, state=None) if d in self.equipped else task for d, task in whole.items()}

    def lost(self, device: int) -> None:
        self.equipped.discard(device)

    def saved(self) -> dict[str, Any]:
        return super().saved() | {"equipped": self.equipped}

    def load(self, saved: Mapping[str, Any]) -> None:
        super().load(saved)
        self.equipped = saved["equipped"]

    @property
    def has_global_model(self) -> bool:
        return False
