"""Which reply is a valid answer of which client. Every other reply is refused and counted."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import Message, Metadata, RecordDict
from flwr.common.logger import log

from fl.messages import records
from fl.server.costs import RoundCosts
from fl.server.fleet import Fleet

COMPLAINT = 500  # letters in the log about one reply


@dataclass
class Replies:
    """The replies to the messages of one phase of a round.

    Args:
        fleet: which node answers for which client.
        costs: counts refused answers.
        sent: the messages that answers are expected to, by client.
        failed: clients that answered with an error so far; complaint: why a reply was of no use, the last one.
    """

    fleet: Fleet
    costs: RoundCosts = field(default_factory=RoundCosts)
    sent: dict[int, Metadata] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    complaint: str = ""

    def complain(self, why: str) -> None:
        """Log why a reply is of no use."""
        self.complaint = records.short(why, COMPLAINT)
        log(WARNING, "%s", self.complaint)

    def read(self, replies: Iterable[Message]) -> tuple[list[tuple[int, RecordDict]], list[int]]:
        """Return (client, content) of valid answers by client number, and the clients that lost their state."""
        got = list(replies)  # a grid sets the ids of messages when it sends them
        asked = {metadata.message_id: client for client, metadata in self.sent.items()}
        out: dict[int, RecordDict] = {}
        for reply in got:
            client = asked.get(reply.metadata.reply_to_message_id)
            if reply.has_error():
                self.failed |= set() if client is None else {client}
                self.complain(f"client {client} failed: {records.last_words(reply.error)}")
            elif (why := self._refuse(reply, client, out)) is not None:
                self.costs.refused_answers += 1
                self.complain(f"an answer of node {reply.metadata.src_node_id} refused: {why}")
            else:
                assert client is not None
                out[client] = reply.content
        self.failed -= out.keys()
        lost = [client for client, content in out.items() if "lost" in records.metrics(content)]
        for client in lost:
            log(WARNING, "client %d no longer has the state that it was to continue from: it is sent again", client)
            del out[client]
        return sorted(out.items()), lost

    def _refuse(self, reply: Message, client: int | None, answered: Container[int]) -> str | None:
        """Return why an answer is not one of ``client``, to whom the message went; None if it is."""
        if client is None:
            return "it answers no open message: it is of another round, or nobody asked for it"
        if client in answered:
            return f"client {client} has answered already"
        if reply.metadata.src_node_id != self.fleet.node(client):
            return f"client {client} is at node {self.fleet.node(client)}"
        try:
            claimed = records.metrics(reply.content)["device"]
        except Exception as error:  # no reply may end the run
            return f"client {client} does not say who it is ({type(error).__name__}: {error})"
        return None if claimed == client else f"client {client} names itself client {claimed}"
