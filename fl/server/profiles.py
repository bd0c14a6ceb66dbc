"""What clients answered to queries: asked once at every step of the world, or once for good."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fl.engines.engine import Engine
from fl.messages import records
from fl.messages.codec import Address
from fl.server.costs import Clocks
from fl.server.replies import Replies
from strategies.core.client import Limits
from strategies.core.strategy import Profile, Strategy

MOST_SHARE = 1e6  # times the large model: no client can spare that


@dataclass
class Profiles:
    """Profiles by client.

    Args:
        most_examples: training samples that a client has at most, to bound what it may report.
        known: by client, the step at which it answered, and the answer.
        equipped: clients that have what the method shares with all (ECLM: the selector).
    """

    method: Strategy
    most_examples: int
    timeout_s: float
    clocks: Clocks
    known: dict[int, tuple[int, Profile]] = field(default_factory=dict)
    equipped: set[int] = field(default_factory=set)

    def ask(self, engine: Engine, clients: Iterable[int], address: Any, replies: Replies) -> list[Profile]:
        """Return the profiles of the clients that answer; one that answered at this step is not asked again.

        Args:
            address: gives the `Address` of a client's query.
            replies: validates the answers and counts bytes.
        """
        clients = list(clients)
        if self.method.asks == "nothing":
            return [Profile(client) for client in clients]
        nodes = {client: node for client in clients if (node := replies.fleet.node(client)) is not None}
        stale = [client for client in nodes if not self._is_known(client, address(client).step)]
        messages, answered = [], set()
        shared = self._kept if self.method.shares_once else self._shared() if stale else {}
        for client in stale:
            where: Address = address(client)
            content = RecordDict({records.TASK: ConfigRecord(where.values())})
            if client not in self.equipped or not self.method.shares_once:
                content.update(shared)
            byte_count = records.size(content)
            replies.costs.bytes_down += byte_count
            self.clocks.spend(client, self.clocks.link(client, byte_count), for_own_model=True)
            messages.append(Message(content, nodes[client], "query", group_id=str(where.round)))
        replies.sent = {client: message.metadata for client, message in zip(stale, messages, strict=True)}
        answers, lost = replies.read(engine.send_and_receive(messages, timeout=self.timeout_s))
        for client in lost:
            self.forget(client)
        for client, content in answers:
            byte_count = records.size(content)
            replies.costs.bytes_up += byte_count
            self.clocks.spend(client, self.clocks.link(client, byte_count), for_own_model=True)
            try:
                report = records.metrics(content)
                profile = self.read(client, report)
                self._count_trial(client, report, replies)
            except Exception as error:  # no answer may end the run
                replies.complain(f"profile of client {client} refused: {error}")
                continue
            self.known[client] = address(client).step, profile
            answered.add(client)
        # A client that did not answer may have lost what the method shares: it is sent again with the next query.
        self.equipped = (self.equipped | answered) - (set(stale) - answered)
        return [self.known[c][1] for c in clients if c in self.known and self._is_known(c, address(c).step)]

    def read(self, client: int, report: Mapping[str, Any]) -> Profile:
        """Read a client's answer.

        Raises:
            ValueError, KeyError, TypeError: it is impossible.
        """
        whole = self.method.models.costs["dense"].whole  # shares are of the large cloud model
        spare = np.array([float(report[what]) for what in ("link", "compute", "memory")])
        if not ((spare >= 0) & (spare <= MOST_SHARE)).all():
            raise ValueError(f"limits {spare.tolist()} are not shares of the large model, 0 to {MOST_SHARE:g}")
        return self.method.read_profile(client, Limits.shares(whole, *spare), report)

    def forget(self, client: int) -> None:
        """Ask the client again, and send it again what the method shares."""
        self.equipped.discard(client)
        self.known.pop(client, None)
        self.method.on_state_lost(client)

    def _is_known(self, client: int, step: int) -> bool:
        return client in self.known and (self.method.asks_once or self.known[client][0] == step)

    @cached_property
    def _kept(self) -> dict[str, ArrayRecord]:
        return self._shared()

    def _shared(self) -> dict[str, ArrayRecord]:
        return {name: records.pack(state) for name, state in self.method.shared_state().items()}

    def _count_trial(self, client: int, report: Mapping[str, Any], replies: Replies) -> None:
        """Account for the work by which a client found out whether it needs the server."""
        if "macs" in report:
            macs = claimed_macs(report, self.method.trial_macs(None) * self.most_examples)
            replies.costs.train_macs += macs
            self.clocks.spend(client, macs / self.clocks.hardware[client].mac_per_s, for_own_model=True)


def claimed_macs(report: Mapping[str, Any], most: float) -> float:
    """Return the multiply-accumulates that a client says a trial took.

    Raises:
        ValueError, KeyError, TypeError: it is no number from 0 to ``most``.
    """
    macs = float(report["macs"])
    if not 0 <= macs <= most:
        raise ValueError(f"{macs:g} MACs of a trial, {most:g} are the most")
    return macs
