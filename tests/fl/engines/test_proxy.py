"""Few messages open at a time: every client that replies is heard, and a silent client does not block the others."""

import pytest
from flwr.app import Message, RecordDict

from fl.engines.grid import LocalGrid
from fl.engines.proxy import ThrottledGrid


class Slow(LocalGrid):
    """Each poll finds the reply to the newest message. Node 3 never replies, and messages to node 4 are refused."""

    def __init__(self) -> None:
        super().__init__({}, 9)
        self.open: list[Message] = []
        self.most = 0

    def push_messages(self, messages):
        names = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"message {node}"
            names.append(None if node == 4 else message.metadata.message_id)
            self.open += [message] if node not in (3, 4) else []
        self.most = max(self.most, len(self.open))
        return names

    def pull_messages(self, message_ids):
        return [Message(RecordDict(), reply_to=self.open.pop())] if self.open else []


def ask(grid: Slow, at_once: int, nodes: list[int], timeout: float | None) -> list[int]:
    messages = [Message(RecordDict(), node, "query") for node in nodes]
    replies = list(ThrottledGrid(grid, at_once, poll_s=0.0).send_and_receive(messages, timeout=timeout))
    assert all(reply.metadata.reply_to_message_id == f"message {reply.metadata.src_node_id}" for reply in replies)
    return [reply.metadata.src_node_id for reply in replies]


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2), (7, 5)])
def test_no_more_messages_are_open_than_allowed(at_once: int, most: int) -> None:
    grid = Slow()
    assert ask(grid, at_once, [0, 1, 2, 4, 5, 6], None) == [0, 1, 2, 5, 6]
    assert grid.most == most and ask(grid, at_once, [], None) == []


def test_a_silent_client_costs_the_timeout_and_no_more() -> None:
    assert ask(Slow(), 2, [0, 3, 1, 2], 1.0) == [0, 1, 2]
