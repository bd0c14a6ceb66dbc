"""The interface between the server and whatever carries its messages: `Engine`, and the `Aggregator` that it fills."""

import traceback
from collections.abc import Iterable
from typing import Any, Protocol

from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

FAILED, DIED = 2, 0  # Flower's error codes for an exception in the ClientApp and for a process that died


class Aggregator(Protocol):
    """Collects the replies of one round.

    It is a monoid: any grouping and any order of `add` and `merge` gives the same result. Worker processes receive a
    pickled copy of it while it is empty.
    """

    def add(self, message: Message, reply: Message) -> Message:
        """Take the update out of a reply that `answers` the message. Returns what is left of it for the server."""

    def part(self) -> Any:
        """Return what was added so far, to be sent to another process."""

    def merge(self, part: Any) -> None:
        """Add what another process aggregated."""


class Engine(Grid):
    """A Flower `Grid` that can aggregate the replies of a round."""

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and aggregate the replies. This default implementation suits every grid.

        Args:
            messages: One for each client.
            aggregator: An empty aggregator. Afterwards it holds the aggregate.
            timeout: Seconds to wait for replies. None waits for all of them.

        Returns:
            What the aggregator left of each reply. An exception in `Aggregator.add` becomes an error reply. These
            replies never reach the aggregator and are returned unchanged: errors, second replies to the same message,
            replies to none of the messages, replies from another node than the message was sent to.
        """
        sent = list(messages)
        replies = list(self.send_and_receive(sent, timeout=timeout))
        waiting = {message.metadata.message_id: message for message in sent}  # a grid sets the ids when it sends
        for i, reply in enumerate(replies):
            name = reply.metadata.reply_to_message_id
            message = waiting.get(name)
            if message is not None and answers(message, reply):
                del waiting[name]
                replies[i] = add_reply(aggregator, message, reply)
        return replies


class GridProxy(Engine):
    """Passes everything on to another grid. Subclasses change some of it.

    A subclass that overrides `send_and_receive` gets the default `aggregate`, which uses the overridden method.

    Args:
        inner: The grid that carries the messages.
    """

    def __init__(self, inner: Grid):
        self.inner = inner

    def set_run(self, run: Run) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        return self.inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self.inner.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.inner.send_and_receive(messages, timeout=timeout)

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        engine = as_engine(self.inner)
        if engine is self.inner and type(self).send_and_receive is GridProxy.send_and_receive:
            return engine.aggregate(messages, aggregator, timeout)
        return super().aggregate(messages, aggregator, timeout)


def as_engine(grid: Grid) -> Engine:
    """Return the grid itself if it is an `Engine`, else a proxy that adds the default `aggregate` to it."""
    return grid if isinstance(grid, Engine) else GridProxy(grid)


def answers(message: Message, reply: Message) -> bool:
    """Return whether a reply is no error, belongs to the message, and comes from the node that the message went to."""
    asked, got = message.metadata, reply.metadata
    belongs = got.reply_to_message_id == asked.message_id and got.src_node_id == asked.dst_node_id
    return belongs and not reply.has_error()


def add_reply(aggregator: Aggregator, message: Message, reply: Message) -> Message:
    """Add a reply to an aggregator if it `answers` the message. Returns what is left of the reply.

    An exception in `Aggregator.add` becomes an error reply, so that it does not end the round.
    """
    try:
        return aggregator.add(message, reply) if answers(message, reply) else reply
    except Exception as error:
        return error_reply(message, error)


def error_reply(message: Message, error: Exception) -> Message:
    """Turn the exception that is being handled into an error reply, as Flower does.

    Raises:
        SystemExit: The GPU of this process failed. The next clients would fail too, but another process may succeed.
    """
    from fl.engines.accelerator import failed  # loads torch, which takes seconds

    if failed(error):
        raise SystemExit(f"error: the GPU failed: {error}; with fewer workers each has more of its memory") from error
    return Message(Error(FAILED, traceback.format_exc(limit=-3)), reply_to=message)
