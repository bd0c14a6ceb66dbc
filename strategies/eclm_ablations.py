"""ECLM without the cloud, and without updates: the ablations of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from models.submodel import extract
from strategies.core.strategy import Profile, TrainTask
from strategies.eclm import ECLM
from strategies.local import KeptModels, NoRounds


class ECLMLocal(KeptModels, ECLM):
    """ECLM w/o cloud (7.3): a client queries the cloud once for a sub-model, then trains it locally at every step."""

    reports = {"eclm-local": "delivered"}
    asks_once = True

    def _first(self, profiles: Sequence[Profile], epochs: int) -> dict[int, TrainTask]:
        return self.served([p for p in profiles if p.client not in self.kept], epochs)

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        first = self._first(profiles, self.budget.adapt_epochs)
        own = {client: replace(task, keep=True, upload=False) for client, task in first.items()}
        return own | {p.client: self.kept[p.client] for p in profiles if p.client in self.kept}

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        kept = {p.client: replace(self.kept[p.client], epochs=0) for p in profiles if p.client in self.kept}
        return self._first(profiles, 0) | kept


class ECLMStatic(NoRounds, ECLM):
    """A static sub-model (2.1, Fig. 1): derived once from the pretrained model, and never updated."""

    reports = {"eclm-static": "delivered"}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.derived: dict[int, TrainTask] = {}  # by client, without parameters

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        tasks = super().configure_evaluate([p for p in profiles if p.client not in self.derived])
        self.derived |= {client: replace(task.without_state(), epochs=0) for client, task in tasks.items()}
        return {p.client: self._with_state(self.derived[p.client]) for p in profiles if p.client in self.derived}

    def _with_state(self, task: TrainTask) -> TrainTask:
        state = extract(self.model, self.axes, task.model.coverage)
        return replace(task, model=replace(task.model, state=state))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"derived": self.derived}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.derived = state["derived"]
