"""Split training ends whatever a client does: one that goes in circles, is silent or slow loses its round alone."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl.engines.grid import LocalGrid
from fl.engines.worker_server import set_task_identity
from fl.messages import records
from fl.messages.codec import Address
from fl.server.split import SplitGrid
from fl.workloads.vq import VQ
from models.submodel import State

CLIENTS, EXAMPLES = 3, 4
LIAR = 1
MODEL: State = {"w": torch.zeros(2)}
CODES, GRADIENT = {"codes": b"0"}, {"logit-gradient": b"1"}


@dataclass
class Steps:
    """A server's side that takes a step with every gradient."""

    for_client: State
    steps: int = 0

    def turn(self, up: dict[str, bytes]) -> dict[str, bytes]:
        self.steps += up == GRADIENT
        return {"down": b"2"}

    def whole(self, trained: State) -> State:
        return trained

    def measures(self, examples: int) -> dict[str, float]:
        return {}


@dataclass
class Clients(LocalGrid):
    """Clients that take four steps, and a liar.

    Args:
        lie: the liar's answer to a message, given how many it had before; None: it is silent.
        turns: messages so far, by client.
    """

    lie: Callable[[Message, int], Message | None]
    turns: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(CLIENTS), 0))
    waiting: dict[str, Message] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            client, name = message.metadata.dst_node_id, f"message {next(self.numbers)}"
            message.metadata.__dict__["_message_id"] = name
            turn = self.turns[client]
            answer = self.lie(message, turn) if client == LIAR else honest(message, turn)
            self.turns[client] += 1
            if answer is not None:
                self.waiting[name] = answer
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.waiting.pop(name) for name in message_ids if name in self.waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        assert not list(messages)
        return []


def up(message: Message, edge: dict[str, bytes]) -> Message:
    report = MetricRecord({"device": message.metadata.dst_node_id})
    return Message(RecordDict({records.REPORT: report, records.EDGE: ConfigRecord(edge)}), reply_to=message)


def end(message: Message, state: State) -> Message:
    report = MetricRecord({"device": message.metadata.dst_node_id, "num-examples": EXAMPLES, "loss": 1.0})
    return Message(RecordDict({records.REPORT: report, records.MODEL: records.pack(state)}), reply_to=message)


def honest(message: Message, turn: int) -> Message:
    """Codes and a gradient, for each of four steps."""
    return end(message, MODEL) if turn == 8 else up(message, GRADIENT if turn % 2 else CODES)


def run(lie: Callable[[Message, int], Message | None], timeout: float = 30.0, at_once: int = 0) -> tuple[Clients, dict]:
    """Returns the clients, and the last reply of each."""
    set_task_identity(1)
    workload = VQ.__new__(VQ)
    workload.replica = lambda context, epochs, state: Steps(state)  # type: ignore[method-assign]
    clients = Clients(lie)
    grid = SplitGrid(clients, workload, "vq", EXAMPLES, at_once)
    messages = []
    for client in range(CLIENTS):
        task = ConfigRecord({**Address("1", 1, "fedavg", client, 1, 1, 0).values(), "epochs": 1})
        content = RecordDict({records.TASK: task, records.MODEL: records.pack(MODEL)})
        messages.append(Message(content, client, "train"))
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    return clients, {reply.metadata.src_node_id: reply for reply in replies}


def check(replies: dict[int, Message], why: str | None) -> None:
    """The others are done; the liar failed with a reason, or is missing."""
    assert all(records.MODEL in replies[client].content for client in range(CLIENTS) if client != LIAR)
    if why is None:
        assert LIAR not in replies
    else:
        assert why in replies[LIAR].error.reason


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_honest_clients_come_to_the_end(at_once: int) -> None:
    clients, replies = run(honest, at_once=at_once)
    assert sorted(replies) == [0, 1, 2] and set(clients.turns.values()) == {9}
    assert all(records.MODEL in reply.content for reply in replies.values())


@pytest.mark.parametrize(
    ("lie", "most"),
    [
        (lambda message, turn: up(message, CODES), 3),  # the first codes again and again
        (lambda message, turn: up(message, GRADIENT), 2 * 2 * EXAMPLES + 1),
        (lambda message, turn: up(message, GRADIENT if turn % 2 else CODES), 2 * (2 * 2 * EXAMPLES + 1)),
    ],
    ids=["first codes", "gradients", "steps"],
)
def test_a_client_that_never_ends_is_cut_off(lie: Callable, most: int) -> None:
    clients, replies = run(lie)
    check(replies, "turns for")
    assert clients.turns == {0: 9, LIAR: most, 2: 9}


def test_a_silent_client_costs_the_timeout_and_no_other_client() -> None:
    began = time.monotonic()
    _, replies = run(lambda message, turn: None if turn == 2 else honest(message, turn), timeout=0.5)
    check(replies, None)
    assert 0.4 < time.monotonic() - began < 5


def test_a_slow_client_loses_its_round_when_the_time_is_over() -> None:
    """Each of its answers is in time for itself."""

    def slow(message: Message, turn: int) -> Message:
        time.sleep(0.1)
        return honest(message, turn)

    began = time.monotonic()
    clients, replies = run(slow, timeout=0.5)
    assert LIAR not in replies and clients.turns[LIAR] < 9 and time.monotonic() - began < 5


def test_an_error_an_answer_of_another_node_and_a_huge_model_are_failures() -> None:
    def stranger(message: Message, turn: int) -> Message:
        reply = honest(message, turn)
        reply.metadata.__dict__["_src_node_id"] = 77 if turn == 8 else LIAR
        return reply

    lies = {
        "no battery": lambda message, turn: Message(Error(1, "no battery"), reply_to=message),
        "node 77, which was not asked": stranger,
        "a model of ": lambda message, turn: end(message, {"w": torch.zeros(1 << 19)}),
    }
    for why, lie in lies.items():
        check(run(lie)[1], why)
