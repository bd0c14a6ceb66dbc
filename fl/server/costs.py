"""What a round costs: bytes, virtual seconds, work and memory, for all clients together and for each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fl.devices.clock import link_seconds
from fl.devices.hardware import HardwareMap
from fl.server.measures import NAN


@dataclass
class RoundCosts:
    """What one round cost, all clients together unless it says otherwise."""

    clients: int = 0  # that trained
    withheld: int = 0  # of these, whose model changed too little to be uploaded
    failures: int = 0
    refused: int = 0  # updates of clients that were asked
    refused_answers: int = 0  # of a client that was not asked, had answered already, or names another client
    late: int = 0  # updates that came after the deadline, or are of an earlier round
    divergence: float = NAN  # of the updates
    module_divergence: float = NAN  # of the updates, in the blocks that can be cut into modules
    variance: float = NAN  # of the updates
    module_variance: float = NAN  # of the updates, in the blocks that can be cut into modules
    load_cv: float = NAN  # of the modules
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0  # virtual, until the server had what it aggregated
    train_macs: float = 0.0
    memory_bytes: float = 0.0  # of the client that needed most
    unserved: int = 0  # clients not scored, because the method has no model within their limits
    measures: dict[str, float] = field(default_factory=dict)  # of the workload, weighted by examples


@dataclass
class Clocks:
    """Virtual seconds of each client.

    Args:
        hardware: of each client.
        round: seconds in this round.
        step: of these and of earlier rounds of this step, the seconds that go into the model that a client uses.
    """

    hardware: HardwareMap
    round: dict[int, float] = field(default_factory=dict)
    step: dict[int, float] = field(default_factory=dict)

    def spend(self, client: int, seconds: float, for_own_model: bool = False) -> None:
        """Add seconds to a client's round, and to its step if they go into the model that it uses."""
        self.round[client] = self.round.get(client, 0.0) + seconds
        if for_own_model:
            self.step[client] = self.step.get(client, 0.0) + seconds

    def link(self, client: int, byte_count: float) -> float:
        """Return the seconds that bytes take on a client's link."""
        return link_seconds(self.hardware[client], byte_count)


def weighted(values: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return the weighted mean of each measure over the clients that reported it, given (weight, measures)."""
    found: dict[str, list[tuple[float, int]]] = {}
    for weight, own in values:
        for name, value in own.items():
            found.setdefault(name, []).append((value, weight))
    return {name: sum(v * w for v, w in found[name]) / sum(w for _, w in found[name]) for name in sorted(found)}
