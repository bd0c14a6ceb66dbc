"""Every engine gives the same aggregate and the same replies, whoever calls the aggregator."""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl.engines.engine import DIED, FAILED, Engine, GridProxy, as_engine
from fl.engines.grid import LocalGrid
from fl.engines.proxy import ThrottledGrid
from fl.engines.worker_server import set_task_identity

NODES = 12
BAD_CLIENT, BAD_UPDATE, KILLER = 3, 5, 7


def client_app(message: Message, context: Context) -> Message:
    """Reply with an update. One client fails, one sends a wrong update, one kills its worker process."""
    node = context.node_id
    if node == BAD_CLIENT:
        raise ValueError("no data")
    if node == KILLER and multiprocessing.parent_process() is not None:
        if context.run_config["kill"] == "always":
            os._exit(1)
        with suppress(FileExistsError):  # the file says that a worker has died already
            Path(str(context.run_config["kill"])).touch(exist_ok=False)
            os._exit(1)
    (sent,) = message.content["model"].to_numpy_ndarrays()
    update = "wrong" if node == BAD_UPDATE else str(node + int(sent.sum()))
    content = {"update": ConfigRecord({"n": update}), "report": MetricRecord({"node": node})}
    return Message(RecordDict(content), reply_to=message)


@dataclass
class Total:
    """Adds up numbers and remembers the clients that sent them."""

    total: int = 0
    nodes: list[int] = field(default_factory=list)

    def add(self, message: Message, reply: Message) -> Message:
        self.total += int(reply.content.pop("update")["n"])
        self.nodes.append(message.metadata.dst_node_id)
        return reply

    def part(self) -> "Total":
        return self

    def merge(self, part: "Total") -> None:
        self.total += part.total
        self.nodes += part.nodes


class FlowerGrid(Grid):
    """A grid that is no engine and returns the replies in another order."""

    run = set_run = create_message = get_node_ids = push_messages = pull_messages = None

    def __init__(self, inner: Grid):
        self.inner = inner

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        yield from reversed(list(self.inner.send_and_receive(messages)))


class Counting(GridProxy):
    """A proxy that looks at all messages."""

    seen = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = list(messages)
        self.seen += len(asked)
        return super().send_and_receive(asked, timeout=timeout)


WRAPPERS: dict[str, tuple[int, Callable[[LocalGrid], Engine]]] = {
    "here": (1, as_engine),
    "workers": (2, as_engine),
    "proxy of workers": (2, GridProxy),
    "flower": (1, lambda grid: as_engine(FlowerGrid(grid))),
    "proxy of flower": (1, lambda grid: GridProxy(FlowerGrid(grid))),
    "flower with workers": (2, lambda grid: as_engine(FlowerGrid(grid))),
    "throttled": (1, partial(ThrottledGrid, at_once=5, poll_s=0.0)),
    "overridden": (2, lambda grid: GridProxy(Counting(grid))),
}


def aggregate(how: str, kill: str) -> tuple[Total, dict[int, tuple]]:
    """Returns the aggregate and the replies by client."""
    workers, wrap = WRAPPERS[how]
    model, total = ArrayRecord([np.ones(3)]), Total()
    with LocalGrid({"kill": kill}, NODES, workers, client_app=client_app) as grid:
        messages = [Message(RecordDict({"model": model}), node, "train") for node in range(NODES)]
        replies = wrap(grid).aggregate(messages, total, timeout=60)
    out = {}
    for message in messages:
        (reply,) = [r for r in replies if r.metadata.reply_to_message_id == message.metadata.message_id]
        rest = (reply.error.code, reply.error.reason) if reply.has_error() else reply.content
        out[reply.metadata.src_node_id] = rest
    return total, out


@pytest.mark.parametrize("how", WRAPPERS)
def test_all_engines_agree_whatever_fails(how: str, tmp_path: Path) -> None:
    """A client fails, the aggregator fails, a worker process dies: also the texts of the errors are the same."""
    total, replies = aggregate(how, str(tmp_path / "died"))
    expected, expected_replies = aggregate("here", "")
    good = sorted({*range(NODES)} - {BAD_CLIENT, BAD_UPDATE})
    assert sorted(total.nodes) == sorted(expected.nodes) == good
    assert total.total == expected.total == sum(good) + 3 * len(good)
    assert replies == expected_replies and len(replies) == NODES
    assert {node: replies[node][0] for node in (BAD_CLIENT, BAD_UPDATE)} == {BAD_CLIENT: FAILED, BAD_UPDATE: FAILED}
    assert "no data" in replies[BAD_CLIENT][1] and "invalid literal for int()" in replies[BAD_UPDATE][1]
    assert all(list(replies[node]) == ["report"] for node in good)
    assert (tmp_path / "died").exists() == (WRAPPERS[how][0] == 2)


def test_a_message_that_kills_its_workers_gets_an_error_on_every_path() -> None:
    for how in ("workers", "flower with workers"):
        total, replies = aggregate(how, "always")
        assert KILLER not in total.nodes and len(total.nodes) == NODES - 3 and replies[KILLER][0] == DIED


def test_an_engine_is_its_own_engine_and_proxies_pass_aggregation_on() -> None:
    """Only workers tell the client that updates stay in the process."""

    def lent(message: Message, context: Context) -> Message:
        content = RecordDict({"update": ConfigRecord({"n": int(context.node_config["lend"])})})
        return Message(content, reply_to=message)

    grid = LocalGrid({}, 1, client_app=lent)
    plain, counting = FlowerGrid(grid), Counting(grid)
    assert as_engine(grid) is grid and as_engine(plain).inner is plain
    wrapped = ((grid, 1), (GridProxy(GridProxy(grid)), 1), (plain, 0), (GridProxy(counting), 0))
    for engine, expected in wrapped:
        total = Total()
        as_engine(engine).aggregate([Message(RecordDict(), 0, "train")], total)
        assert total.total == expected and total.nodes == [0]
    assert counting.seen == 1


def wrong_address(message: Message, context: Context) -> Message:
    """Client 1 answers another message, client 2 another node's."""
    reply = Message(RecordDict({"update": ConfigRecord({"n": 1})}), reply_to=message)
    if context.node_id == 1:
        reply.metadata.__dict__["_reply_to_message_id"] = "another"
    if context.node_id == 2:
        reply.metadata.__dict__["_src_node_id"] = 0
    return reply


@pytest.mark.parametrize("how", ["here", "workers", "flower", "flower with workers", "proxy of workers"])
def test_a_reply_to_another_message_or_of_another_node_is_not_added(how: str) -> None:
    """It is returned untouched, and the others count."""
    workers, wrap = WRAPPERS[how]
    total, messages = Total(), [Message(RecordDict(), node, "train") for node in range(4)]
    with LocalGrid({}, 4, workers, client_app=wrong_address) as grid:
        replies = wrap(grid).aggregate(messages, total, timeout=60)
    assert sorted(total.nodes) == [0, 3] and total.total == 2
    assert sorted(reply.metadata.reply_to_message_id == "another" for reply in replies) == [False] * 3 + [True]
    assert sum("update" in reply.content for reply in replies) == 2


def test_only_the_first_reply_of_the_right_client_is_added() -> None:
    set_task_identity(1)

    def reply(message: Message, number: int) -> Message:
        return Message(RecordDict({"update": ConfigRecord({"n": number})}), reply_to=message)

    class Strange(FlowerGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            first, second, _ = messages
            for i, message in enumerate((first, second, unknown)):
                message.metadata.__dict__["_message_id"] = str(i)
            other = reply(first, 1)
            other.metadata.__dict__["_src_node_id"] = 9
            error = Message(Error(5, "offline"), reply_to=first)
            return [other, error, reply(first, 10), reply(first, 100), reply(unknown, 1000), reply(second, 10000)]

    unknown = Message(RecordDict(), 0, "train")
    total, messages = Total(), [Message(RecordDict(), node, "train") for node in range(3)]
    replies = as_engine(Strange(None)).aggregate(iter(messages), total)
    assert total.total == 10010 and total.nodes == [0, 1]
    assert ["update" in r.content if r.has_content() else "error" for r in replies] == [
        True, "error", False, True, True, False,
    ]  # fmt: skip
