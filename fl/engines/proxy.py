"""Grids in front of another one."""

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

POLL_S = 0.05  # Flower itself looks for answers every 3 s


class Relay(Grid):
    """Lets everything pass; what is derived from it does otherwise with some of it.

    Args:
        inner: carries every message.
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

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.inner.send_and_receive(messages, timeout=timeout)


class Paced(Relay):
    """Has few messages under way at a time, for SuperNodes that share a machine.

    Each message starts a process, and one that is not up within 30 s fails (Flower gives up its task, but does not end
    it): twenty that start together on two cores may do so all, and are in the way of those that are started next.

    Args:
        at_once: messages under way at a time.
        inner: as above.
    """

    def __init__(self, inner: Grid, at_once: int):
        super().__init__(inner)
        self.at_once = at_once

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        answers = exchange(self.inner, list(messages), timeout, self.at_once)
        return [answer for answer in answers if answer is not None]


def exchange(grid: Grid, messages: Sequence[Message], timeout: float | None, at_once: int = 0) -> list[Message | None]:
    """The answer to each message, None if there was none in time.

    Args:
        timeout: of all together, seconds; None: for ever.
        at_once: messages under way at a time; 0: all.
    """
    todo, under_way, heard = deque(messages), set[str](), dict[str, Message]()
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    while True:
        free = (at_once or len(messages)) - len(under_way)
        sent = grid.push_messages([todo.popleft() for _ in range(min(free, len(todo)))])
        under_way.update(filter(None, sent))  # Flower's name for a message that it does not take is None
        heard |= {answer.metadata.reply_to_message_id: answer for answer in grid.pull_messages(under_way)}
        under_way -= heard.keys()
        if not (todo or under_way) or time.monotonic() > end:
            return [heard.get(message.metadata.message_id) for message in messages]
        time.sleep(POLL_S)
