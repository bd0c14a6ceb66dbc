"""Each message is answered, again if its worker died, and added exactly once. The workers here are plain objects."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl.engines.engine import DIED
from fl.engines.worker_pool import EngineFailed, Worker, WorkerDied, WorkerPool
from fl.engines.worker_server import WorkerServer, set_task_identity


def reply(message: Message, context) -> Message:
    return Message(RecordDict({"node": ConfigRecord({"n": context.node_id})}), reply_to=message)


@dataclass
class Numbers:
    """Adds up the numbers of the nodes that reply."""

    total: int = 0

    def add(self, message: Message, reply: Message) -> Message:
        self.total += message.metadata.dst_node_id
        return reply

    def part(self) -> int:
        return self.total

    def merge(self, part: int) -> None:
        self.total += part


@dataclass
class Plan:
    """Which nodes kill their worker, and how often; how many workers die with a part, or at start; what they got."""

    kills: Counter = field(default_factory=Counter)
    parts: int = 0
    at_start: int = 0
    jobs: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)


class Object(Worker):
    def __init__(self, plan: Plan):
        self.plan = plan
        self.server = WorkerServer(1, 100, {}, self.answer)
        self.left: bytes | None = b""
        if plan.at_start:
            plan.at_start -= 1
            self.left = None

    def answer(self, message: Message, context) -> Message:
        if self.plan.kills[context.node_id]:
            self.plan.kills[context.node_id] -= 1
            raise KeyboardInterrupt  # not caught as an exception of the client
        return reply(message, context)

    def call(self, method: str, *args) -> None:
        if method == "work":
            self.plan.fresh.append(len(args[2]))
        if method == "part" and self.plan.parts:
            self.plan.parts -= 1
            self.left = None
            return
        try:
            self.left = getattr(self.server, method)(*args)
            if method == "work":
                assert self.left is not None
                self.plan.jobs.append(len(pickle.loads(self.left)[0]))
        except KeyboardInterrupt:
            self.left = None

    def result(self) -> bytes:
        if self.left is None:
            raise WorkerDied("killed")
        return self.left

    def stop(self) -> None:
        pass


class Objects(WorkerPool):
    def __init__(self, size: int, plan: Plan, quick_s: float = 0.2):
        super().__init__(size, WorkerServer(1, 100, {}), quick_s)
        self.plan, self.turn = plan, 0

    def spawn(self) -> Worker:
        return Object(self.plan)

    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        self.turn += 1
        return [workers[self.turn % len(workers)]]


def messages(nodes: int, model: ArrayRecord | None = None) -> list[Message]:
    set_task_identity(1)
    out = []
    for node in range(nodes):
        out.append(Message(RecordDict({"model": model} if model is not None else {}), node, "query"))
        out[-1].metadata.__dict__["_message_id"] = str(node)
    return out


@given(
    st.integers(0, 20), st.integers(1, 4), st.dictionaries(st.integers(0, 19), st.sampled_from([1, 3]), max_size=3),
    st.integers(0, 3), st.integers(0, 2), st.booleans(),
)  # fmt: skip
def test_every_message_is_answered_and_added_once(
    nodes: int, size: int, kills: dict[int, int], parts: int, at_start: int, aggregates: bool
) -> None:
    """A message that always kills its worker gets an error; one death has no effect. The others are added once."""
    pool = Objects(size, Plan(Counter(kills), parts, at_start))
    for _ in range(2):  # the pool survives
        numbers = Numbers() if aggregates else None
        failing = {node for node, times in pool.plan.kills.items() if times == 3 and node < nodes}
        answers = pool.run(messages(nodes), numbers)
        assert {int(name) for name in answers} == set(range(nodes))
        failed = {int(name) for name, answer in answers.items() if answer.has_error()}
        assert failed == failing and all(answers[str(node)].error.code == DIED for node in failed)
        assert all(answers[str(n)].content["node"]["n"] == n for n in set(range(nodes)) - failed)
        if numbers:
            assert numbers.total == sum(set(range(nodes)) - failed)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError, RuntimeError])
def test_a_gpu_failure_ends_the_worker_and_no_client(error: type[RuntimeError]) -> None:
    """The next clients would fail, too. Another error is the reply of the client that raised it."""

    def answer(message: Message, context: Context) -> Message:
        raise error("CUDA out of memory.")

    server = WorkerServer(1, 2, {}, answer)
    if error is RuntimeError:
        ((said,), _) = server.replies(messages(1))
        assert "out of memory" in said.error.reason
    else:
        with pytest.raises(SystemExit, match="the GPU failed: CUDA out of memory."):
            server.replies(messages(1))


def test_the_run_ends_if_all_workers_die() -> None:
    with pytest.raises(EngineFailed, match=r"13 workers in a row died before they sent a reply \(killed\)"):
        Objects(2, Plan(at_start=1000)).run(messages(3), None)
    with pytest.raises(EngineFailed, match="in a row died"):
        Objects(2, Plan(Counter(dict.fromkeys(range(30), 9)))).run(messages(30), None)


@pytest.mark.parametrize(
    ("quick", "jobs"),
    [
        (0.0, [4, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]),  # an eighth of what is left each time, rounded up
        (1e9, [13, 12]),  # all at once if the last round was quick
    ],
)
def test_jobs_shrink_so_that_all_workers_end_together(quick: float, jobs: list[int]) -> None:
    """25 messages and 2 workers."""
    plan = Plan()
    pool = Objects(2, plan, quick)
    pool.run(messages(1), None)
    pool.run(messages(25), None)
    assert plan.jobs == [1, *jobs]


def test_a_shared_record_is_sent_to_each_worker_once_a_round() -> None:
    plan, model = Plan(), ArrayRecord()
    pool = Objects(3, plan)
    for _ in range(2):
        pool.run(messages(25, model), None)
        assert sum(plan.fresh) == len({*pool.slots}) == 3
        plan.fresh.clear()
