"""ECLM: a personal sub-model for every device, made of the modules that matter to its data and fit its limits.

Zhuang et al., "ECLM: Efficient Edge-Cloud Collaborative Learning with Continuous Environment Adaptation".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from models.modular.derive import Infeasible, choose, choose_many, smallest
from models.nn.body import by_axis, columns_coverage
from models.submodel import extract
from strategies.base import Averaging, Limits, Profile, Task, Update


class ECLM(Averaging):
    """Query, derive (5.1), train locally, aggregate module by module (5.2).

    'eclm' is scored after local adaptation; 'eclm-derive' is the paper's ECLM w/o local adaptation (7.3).

    Class attributes:
        blend: as in `strategies.base.Task`; not the paper's, see `strategies.eclm_plus`.
    """

    reports = {"eclm-derive": "delivered", "eclm": "adapted"}
    architecture = "modular"
    asks = "importance"
    blend: ClassVar[float] = 1.0

    def derive(self, profile: Profile) -> dict[str, np.ndarray]:
        """Indices of the modules that one device activates, per layer.

        Raises:
            Infeasible: the limits do not admit one module per layer.
        """
        assert profile.limits is not None and profile.importance is not None
        return choose(self.cloud.modular_costs, profile.importance, profile.limits.vector, Limits.names)

    def candidates(self, profile: Profile) -> dict[str, np.ndarray]:
        """Indices of the modules that a device is to hold and choose from: what is not active takes only the link.

        Raises:
            Infeasible: the link does not admit one module per layer.
        """
        assert profile.limits is not None and profile.importance is not None
        link_alone = np.array([self.plan.candidates * profile.limits.bytes, np.inf, np.inf])
        return choose(self.cloud.modular_costs, profile.importance, link_alone, Limits.names)

    def _task(self, modules: Mapping[str, np.ndarray], epochs: int) -> Task:
        coverage = columns_coverage(self.cloud.modular.sizes, modules)
        price = self.cloud.modular_costs.of({axis: len(kept) for axis, kept in coverage.items()})
        state = extract(self.model, self.axes, coverage)
        return Task("modular", coverage, state, epochs, price, masked=self.masked, blend=self.blend)

    def derive_all(self, profiles: Sequence[Profile]) -> list[dict[str, np.ndarray] | None]:
        """`derive` for many devices in one call; None where it is infeasible."""
        scores = [p.importance for p in profiles if p.importance is not None]
        limits = [p.limits.vector for p in profiles if p.limits is not None]
        return choose_many(self.cloud.modular_costs, scores, limits, Limits.names)

    def serve(self, profile: Profile, epochs: int, derived: Mapping[str, np.ndarray] | None = None) -> Task:
        """A sub-model for use: what fits, or the smallest there is.

        With candidates, a device that can do with the modules that it holds goes on with these; any other is sent new
        ones. Either way it re-selects among them by itself. ``derived``: what `derive` gives, where that is known.
        """
        assert profile.importance is not None
        try:
            modules = profile.held or (
                self.candidates(profile) if self.plan.candidates else derived or self.derive(profile)
            )
        except Infeasible:
            modules = smallest(profile.importance)
        task = self._task(modules, epochs)
        if self.plan.candidates:
            task = replace(task, keep=True, reselect=True, state=None if profile.held else task.state)
        return task

    def lesson(self, profile: Profile, modules: Mapping[str, np.ndarray]) -> Task:
        """What a device trains, and how that counts: w_i <- sum_k a_ik w_ik (5.2).

        a_ik is the importance of module i on device k, normalised over those that hold it; what every sub-model holds
        (stem, norms, head) is averaged by examples.
        """
        assert profile.importance is not None
        task = self._task(modules, self.plan.local_epochs)
        scores = by_axis(self.cloud.modular.sizes, profile.importance)
        index_weights = {axis: torch.from_numpy(scores[axis])[kept].float() for axis, kept in task.coverage.items()}
        return replace(task, index_weights=index_weights)

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        return {
            profile.device: self.lesson(profile, modules)
            for profile, modules in zip(profiles, self.derive_all(profiles), strict=True)
            if modules is not None  # else too small to train: it sits the round out
        }

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        derived = self.derive_all(profiles) if not self.plan.candidates else [None] * len(profiles)
        return {p.device: self.serve(p, self.plan.adapt_epochs, d) for p, d in zip(profiles, derived, strict=True)}


@dataclass
class ECLMLocal(ECLM):
    """ECLM w/o cloud (7.3): a device queries the cloud once for a sub-model and from then on trains it by itself.

    What `strategies.local.LocalAdaptation` does with the dense model, at every step.
    """

    reports = {"eclm-local": "delivered"}
    asks_once = True
    own: dict[int, Task] = field(default_factory=dict, init=False)  # how a device goes on from what it keeps

    def cohort(self, round_: int) -> list[int]:
        return list(range(self.plan.devices)) if self.plan.starts_step(round_) else []

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        return {
            p.device: self.own.get(p.device) or replace(self.serve(p, self.plan.adapt_epochs), keep=True, upload=False)
            for p in profiles
        }

    def absorb(
        self, round_: int, tasks: Mapping[int, Task], updates: Sequence[Update], profiles: Sequence[Profile]
    ) -> None:
        self.own |= {u.device: replace(tasks[u.device], state=None) for u in updates}

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        return {p.device: replace(self.own.get(p.device) or self.serve(p, 0), epochs=0) for p in profiles}

    def lost(self, device: int) -> None:
        self.own.pop(device, None)

    def saved(self) -> dict[str, Any]:
        return super().saved() | {"own": self.own}

    def load(self, saved: Mapping[str, Any]) -> None:
        super().load(saved)
        self.own = saved["own"]

    @property
    def has_global_model(self) -> bool:
        return False
