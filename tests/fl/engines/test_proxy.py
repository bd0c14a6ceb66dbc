"""Few messages under way at a time: everybody is answered all the same, and the silent hold nobody up for ever."""

from itertools import count
from types import SimpleNamespace

import pytest
from flwr.app import Message, RecordDict

from fl.engines.grid import LocalGrid
from fl.engines.proxy import Paced
from fl.engines.worker_server import identify


class Slow(LocalGrid):
    """Answers at every look the message that came last, never node 3's, and does not take node 4's."""

    def __init__(self) -> None:
        super().__init__({}, 9)
        self.under_way: list[Message] = []
        self.most = 0

    def push_messages(self, messages):
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"message {node}"
            names.append(None if node == 4 else message.metadata.message_id)
            self.under_way += [message] if node not in (3, 4) else []
        self.most = max(self.most, len(self.under_way))
        return names

    def pull_messages(self, message_ids):
        return [Message(RecordDict(), reply_to=self.under_way.pop())] if self.under_way else []


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second each time that somebody looks at it."""
    monkeypatch.setattr(
        "fl.engines.proxy.time", SimpleNamespace(monotonic=count().__next__, sleep=lambda seconds: None)
    )
    identify(1)


def ask(grid: Slow, at_once: int, nodes: list[int], timeout: float | None) -> list[int]:
    messages = [Message(RecordDict(), node, "query") for node in nodes]
    replies = list(Paced(grid, at_once).send_and_receive(messages, timeout=timeout))
    assert all(reply.metadata.reply_to_message_id == f"message {reply.metadata.src_node_id}" for reply in replies)
    return [reply.metadata.src_node_id for reply in replies]


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2), (7, 5)])
def test_no_more_than_asked_for_are_under_way(at_once: int, most: int) -> None:
    grid = Slow()
    assert ask(grid, at_once, [0, 1, 2, 4, 5, 6], None) == [0, 1, 2, 5, 6]
    assert grid.most == most and ask(grid, at_once, [], None) == []


def test_who_is_silent_is_given_up_in_time() -> None:
    assert ask(Slow(), 2, [0, 3, 1, 2], 20.0) == [0, 1, 2]
