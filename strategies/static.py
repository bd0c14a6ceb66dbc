"""A static sub-model (ECLM 2.1, Fig. 1): derived once, never updated, however the device's data shift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.submodel import extract
from strategies.base import Profile, Task
from strategies.eclm import ECLM
from strategies.local import NoRounds


@dataclass
class StaticSubModel(NoRounds, ECLM):
    """What ECLM derives for a device when it is first asked, from the cloud model of the offline stage."""

    reports = {"eclm-static": "delivered"}
    own: dict[int, Task] = field(default_factory=dict, init=False)  # what each device holds, without the parameters

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        derived = super().deliver([p for p in profiles if p.device not in self.own])
        self.own |= {device: replace(task, state=None, epochs=0) for device, task in derived.items()}
        mine = {p.device: self.own[p.device] for p in profiles}
        return {
            device: replace(task, state=extract(self.model, self.axes, task.coverage)) for device, task in mine.items()
        }

    def saved(self) -> dict[str, Any]:
        return super().saved() | {"own": self.own}

    def load(self, saved: Mapping[str, Any]) -> None:
        super().load(saved)
        self.own = saved["own"]
