"""The cloud models that every method starts from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.costs import CostModel
from models.modular.model import ModularModel
from models.nn.body import Architecture, Body
from models.submodel import FULL, Coverage, State


@dataclass
class PretrainedModels:
    """What pretraining in the cloud hands to every method. A model that no method uses is never trained.

    Args:
        architectures, costs: by name: ``dense``, and, where the model can be cut, ``modular`` and ``supernet``.
        train: for each model that a method may ask for, a function that trains it or reads it from the cache:
            ``dense``, ``nested``, ``rolling``, ``supernet`` give a `State`, ``modular`` and ``tailored`` a
            `ModularModel`.
        class_shares: (classes,) how often each class occurs in the cloud's data; empty where there are no classes.
        recalibrate: ``recalibrate(coverage, state)`` gives a part of the dense model batch-norm statistics of the
            proxy data; without batch norm the part stays the same.
        parts: the part of the dense model that client d needs is ``parts[d % len(parts)]``, e.g. that of its task.
        post_aggregate: ``post_aggregate(server_round, before, after)`` changes a dense model that was just aggregated
            in a round, where the server moves something in it by itself.
    """

    architectures: Mapping[str, Architecture]
    costs: Mapping[str, CostModel]
    train: Mapping[str, Callable[[], Any]]
    class_shares: Sequence[float] = ()
    recalibrate: Callable[[Coverage, State], State] = lambda coverage, state: state
    parts: Sequence[Coverage] = (FULL,)
    post_aggregate: Callable[[int, State, State], State] = lambda server_round, before, after: after
    _trained: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def state(self, name: str) -> State:
        """Parameters of the model ``dense``, ``nested``, ``rolling`` or ``supernet``."""
        return self._get(name)

    def network(self, name: str) -> Body:
        """The whole model ``dense`` or ``supernet`` as a new network, in CPU memory."""
        network = self.architectures[name].part(FULL)
        network.load_state_dict(self.state(name))
        return network

    def modular(self, name: str = "modular") -> ModularModel:
        """The model ``modular`` or ``tailored``: body, selector and routing."""
        return self._get(name)

    def _get(self, name: str) -> Any:
        if name not in self._trained:
            self._trained[name] = self.train[name]()
        return self._trained[name]
