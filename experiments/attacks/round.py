"""One round of a method, to be run again and again with the same honest replies and other replies of some clients."""

import pickle
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from flwr.app import Message, RecordDict

from experiments.attacks import SMALL
from fl.config import Settings
from fl.engines.engine import Aggregator, GridProxy, add_reply
from fl.engines.grid import LocalGrid
from fl.messages.codec import Address
from fl.server.checkpoint import dumps, loads
from fl.server.costs import RoundCosts
from fl.server.fleet import Fleet
from fl.server.replies import Replies
from fl.server.rounds import Rounds
from fl.server.scores import ClientScore
from fl.workloads.resolve import resolve
from models.submodel import State
from strategies.core.strategy import Profile

LIAR, OTHER = 1, 2

Lie = Callable[[Message], Sequence[Message]]
"""Makes the liar's replies to a message."""


def sends(content: RecordDict) -> Lie:
    """The liar sends this."""
    return lambda message: [Message(RecordDict(dict(content)), reply_to=message)]


def silent(message: Message) -> list[Message]:
    """The liar sends nothing."""
    return []


class Replay(GridProxy):
    """Answers messages as the clients did the first time, but for the liars' replies to one kind of message.

    Args:
        inner: the clients; liars: those that may lie.

    Attributes:
        honest: replies by kind of message and client; asked: the first messages, in the same way.
        lies: makes the liars' replies, by kind of message.
    """

    def __init__(self, inner: LocalGrid, liars: Collection[int]):
        super().__init__(inner)
        self.liars = liars
        self.honest: dict[tuple[str, int], RecordDict] = {}
        self.asked: dict[tuple[str, int], Message] = {}
        self.lies: dict[str, Lie] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies: list[Message] = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
            kind, client = message.metadata.message_type, message.metadata.dst_node_id
            if (kind, client) not in self.honest:
                (reply,) = self.inner.send_and_receive([message])
                self.honest[kind, client], self.asked[kind, client] = RecordDict(dict(reply.content)), message
            if client in self.liars and kind in self.lies:
                replies += self.lies[kind](message)
            else:
                replies.append(self.answer(message))
        return replies

    def answer(self, message: Message) -> Message:
        """The client's honest reply."""
        content = self.honest[message.metadata.message_type, message.metadata.dst_node_id]
        return Message(RecordDict(dict(content)), reply_to=message)


class Parts(GridProxy):
    """Aggregates as two worker processes do: each fills a copy of the empty aggregator. Every message has one reply."""

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        sent = list(messages)
        parts = [pickle.loads(pickle.dumps(aggregator)) for _ in range(2)]
        replies = [
            add_reply(parts[number % 2], message, reply)
            for number, (message, reply) in enumerate(zip(sent, self.send_and_receive(sent), strict=True))
        ]
        for part in reversed(parts):
            aggregator.merge(pickle.loads(pickle.dumps(part.part())))
        return replies


class Round:
    """A round of a method.

    Args:
        method: its name; root: folder for what clients keep; clients: their number; liars: those of them that lie.
        settings: other values for some dotted keys.
    """

    def __init__(
        self, method: str, root: Path, clients: int = 4, liars: Collection[int] = (LIAR,), **settings: object
    ):  # fmt: skip
        changes = {"devices.count": clients, "cohort": clients, "strategies": method, "devices.state-root": str(root)}
        self.run = resolve(Settings.parse({**SMALL, **changes, **settings}))
        self.grid = LocalGrid(self.run.settings.flat(), clients)
        self.engine, self.method, self.root = Replay(self.grid, liars), method, root
        fleet = Fleet.find(self.grid, self.run.settings.devices, timeout_s=60)
        self.rounds = Rounds(self.run, method, self.run.strategy(method, 1), fleet, "1")
        self.before = dumps(self.rounds.state_dict())
        self.rounds.train(1, self.engine)
        self.after = dumps(self.rounds.state_dict())
        self.rounds.evaluate(2, self.engine)

    @property
    def honest(self) -> set[int]:
        """The clients that never lie."""
        return set(range(self.rounds.cohort)) - set(self.engine.liars)

    def content(self, kind: str, client: int = LIAR) -> RecordDict:
        """The honest reply of a client."""
        return RecordDict(dict(self.engine.honest[kind, client]))

    def train(self, lie: Lie | None = None, parts: bool = False) -> tuple[RoundCosts, State]:
        """Return what a round costs, and the model after it.

        Args:
            lie: makes the liars' replies; None: all clients are honest.
            parts: aggregate as worker processes do, not one reply after the other as on a plain grid of Flower.
        """
        self.rounds.load_state_dict(loads(self.before))
        self.engine.lies = {"train": lie} if lie else {}
        self.rounds.train(1, Parts(self.engine) if parts else self.engine)
        return self.rounds.costs, self.rounds.method.model

    def evaluate(self, lie: Lie) -> list[ClientScore]:
        """Return the scores after the round."""
        self.rounds.load_state_dict(loads(self.after))
        self.engine.lies = {"evaluate": lie}
        self.rounds.evaluate(2, self.engine)
        return self.rounds.scores

    def ask(self, lie: Lie) -> list[Profile]:
        """Return the profiles that a server gets that knows none."""
        self.rounds.load_state_dict({**loads(self.before), "profiles": {}, "equipped": set()})
        self.engine.lies = {"query": lie}
        self.rounds.replies = Replies(self.rounds.fleet)

        def address(client: int) -> Address:
            return Address("1", 4, self.method, client, 1, 1, 0, self.rounds.method.asks)

        return self.rounds.profiles.ask(self.engine, range(self.rounds.cohort), address, self.rounds.replies)
