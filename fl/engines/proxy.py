"""Sending messages a few at a time, to any grid."""

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fl.engines.engine import GridProxy

POLL_S = 0.05  # Flower itself polls every 3 s


class ThrottledGrid(GridProxy):
    """Limits how many messages are open at a time, for SuperNodes that share a machine.

    A SuperNode starts a process for each message. Flower gives a message up if its process is not ready within 30 s,
    but does not stop the process. Twenty processes that start together on two cores can all miss this limit, and they
    slow down the processes that start next.

    Args:
        inner: The grid that carries the messages.
        at_once: Largest number of open messages.
        poll_s: Seconds between two polls for replies.
    """

    def __init__(self, inner: Grid, at_once: int, poll_s: float = POLL_S):
        super().__init__(inner)
        self.at_once, self.poll_s = at_once, poll_s

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = exchange(self.inner, list(messages), timeout, self.at_once, self.poll_s)
        return [reply for reply in replies if reply is not None]


def exchange(
    grid: Grid, messages: Sequence[Message], timeout: float | None, at_once: int = 0, poll_s: float = POLL_S
) -> list[Message | None]:
    """Send messages and wait for the replies.

    Args:
        timeout: Seconds for all messages together. None waits without limit.
        at_once: Largest number of open messages. 0 sends all at once.
        poll_s: Seconds between two polls for replies.

    Returns:
        The reply to each message, None where none came in time.
    """
    todo, open_, replies = deque(messages), set[str](), dict[str, Message]()
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    while True:
        free = (at_once or len(messages)) - len(open_)
        sent = grid.push_messages([todo.popleft() for _ in range(min(free, len(todo)))])
        open_.update(filter(None, sent))  # Flower returns None as the id of a message that it refuses
        replies |= {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages(open_)}
        open_ -= replies.keys()
        if not (todo or open_) or time.monotonic() > end:
            return [replies.get(message.metadata.message_id) for message in messages]
        time.sleep(poll_s)
