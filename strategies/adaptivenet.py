"""AdaptiveNet: a device downloads a multi-branch supernet once and looks for its own path through it.

Wen et al., "AdaptiveNet: Post-deployment Neural Architecture Adaptation for Diverse Edge Environments", MobiCom 2023,
arXiv:2303.07129; AN in ECLM 7.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.costs import Cost
from models.submodel import FULL, State
from strategies.base import Profile, Task
from strategies.local import LocalAdaptation


@dataclass
class AdaptiveNet(LocalAdaptation):
    """At every step a device takes the path that suits its fresh data best under its limits of MACs and memory.

    Everything happens on the device, the search too, whose forward passes take its time: it never hears from the cloud
    again. With fine-tuning: the path found is trained locally; each step starts again from the supernet.
    """

    reports = {"an": "delivered", "an+ft": "adapted"}
    architecture = "supernet"

    def initial(self) -> State:
        return self.cloud.supernet_state

    def _supernet(self, epochs: int, keep: bool = False, search: bool = False) -> Task:
        """The whole supernet, which is held and never trained as such: it costs no MACs and no training memory."""
        params = sum(value.numel() for value in self.model.values())
        price = Cost(params, 4 * params, 0.0, 0.0)
        return Task("supernet", FULL, self.model, epochs, price, keep=keep, upload=False, search=search)

    def cohort(self, round_: int) -> list[int]:
        return [device for device in super().cohort(round_) if device not in self.equipped]

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        task = self._supernet(0, keep=True)
        return {p.device: task for p in profiles}

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        whole = self._supernet(self.plan.adapt_epochs, search=True)
        own = replace(whole, state=None)
        return {p.device: own if p.device in self.equipped else whole for p in profiles}
