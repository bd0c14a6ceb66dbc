"""Work is shared out, repeated where its worker died, and summed exactly once; workers here are mere objects."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.engines.worker_pool import Crew, Died, EngineFailed, Worker
from fl.engines.worker_server import DIED, Host, identify


def reply(message: Message, context) -> Message:
    return Message(RecordDict({"node": ConfigRecord({"n": context.node_id})}), reply_to=message)


@dataclass
class Numbers:
    """Adds up the numbers of the nodes that answer."""

    total: int = 0

    def take(self, message: Message, reply: Message) -> Message:
        self.total += message.metadata.dst_node_id
        return reply

    def part(self) -> int:
        return self.total

    def merge(self, part: int) -> None:
        self.total += part


@dataclass
class Plan:
    """Which nodes kill their worker, and how often; how many workers die with a part, or at birth; what they got."""

    kills: Counter = field(default_factory=Counter)
    parts: int = 0
    unborn: int = 0
    jobs: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)


class Object(Worker):
    def __init__(self, plan: Plan):
        self.plan = plan
        self.host = Host(1, 100, {}, self.answer)
        self.left: bytes | None = b""
        if plan.unborn:
            plan.unborn -= 1
            self.left = None

    def answer(self, message: Message, context) -> Message:
        if self.plan.kills[context.node_id]:
            self.plan.kills[context.node_id] -= 1
            raise KeyboardInterrupt  # passes by what catches a device's exceptions
        return reply(message, context)

    def ask(self, verb: str, *args) -> None:
        if verb == "work":
            self.plan.fresh.append(len(args[2]))
        if verb == "part" and self.plan.parts:
            self.plan.parts -= 1
            self.left = None
            return
        try:
            self.left = getattr(self.host, verb)(*args)
            if verb == "work":
                assert self.left is not None
                self.plan.jobs.append(len(pickle.loads(self.left)[0]))
        except KeyboardInterrupt:
            self.left = None

    def result(self) -> bytes:
        if self.left is None:
            raise Died("killed")
        return self.left

    def stop(self) -> None:
        pass


class Objects(Crew):
    def __init__(self, size: int, plan: Plan):
        super().__init__(size)
        self.plan, self.turn = plan, 0

    def hire(self) -> Worker:
        return Object(self.plan)

    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        self.turn += 1
        return [workers[self.turn % len(workers)]]


def messages(nodes: int, model: ArrayRecord | None = None) -> list[Message]:
    identify(1)
    out = []
    for node in range(nodes):
        out.append(Message(RecordDict({"model": model} if model is not None else {}), node, "query"))
        out[-1].metadata.__dict__["_message_id"] = str(node)
    return out


@settings(deadline=None)
@given(
    st.integers(0, 20), st.integers(1, 4), st.dictionaries(st.integers(0, 19), st.sampled_from([1, 3]), max_size=3),
    st.integers(0, 3), st.integers(0, 2), st.booleans(),
)  # fmt: skip
def test_everybody_is_answered_and_counted_once(
    nodes: int, size: int, kills: dict[int, int], parts: int, unborn: int, folds: bool
) -> None:
    """Who kills whatever it is given fails alone, one death is forgiven; the sum is that of the others."""
    crew = Objects(size, Plan(Counter(kills), parts, unborn))
    for _ in range(2):  # the crew lives on
        fold = Numbers() if folds else None
        failing = {node for node, times in crew.plan.kills.items() if times == 3 and node < nodes}
        answers = crew.share_out(messages(nodes), fold)
        assert {int(name) for name in answers} == set(range(nodes))
        failed = {int(name) for name, answer in answers.items() if answer.has_error()}
        assert failed == failing and all(answers[str(node)].error.code == DIED for node in failed)
        assert all(answers[str(n)].content["node"]["n"] == n for n in set(range(nodes)) - failed)
        if fold:
            assert fold.total == sum(set(range(nodes)) - failed)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError, RuntimeError])
def test_a_gpu_that_fails_ends_its_worker_and_no_device(error: type[RuntimeError]) -> None:
    """Every device after it would fail too; an error of a device is that device's."""

    def answer(message: Message, context: Context) -> Message:
        raise error("CUDA out of memory.")

    host = Host(1, 2, {}, answer)
    if error is RuntimeError:
        ((said,), _) = host.replies(messages(1))
        assert "out of memory" in said.error.reason
    else:
        with pytest.raises(SystemExit, match="of the GPU: CUDA out of memory."):
            host.replies(messages(1))


def test_workers_that_die_whatever_they_do_end_the_run() -> None:
    with pytest.raises(EngineFailed, match=r"13 workers in a row died before they answered anything \(killed\)"):
        Objects(2, Plan(unborn=1000)).share_out(messages(3), None)
    with pytest.raises(EngineFailed, match="in a row died"):
        Objects(2, Plan(Counter(dict.fromkeys(range(30), 9)))).share_out(messages(30), None)


@pytest.mark.parametrize(
    ("quick", "jobs"),
    [
        (0.0, [4, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]),  # an eighth of what is left each time, rounded up
        (1e9, [13, 12]),  # at once, as soon as it is known that a round is quick
    ],
)
def test_jobs_shrink_so_that_all_finish_together(
    monkeypatch: pytest.MonkeyPatch, quick: float, jobs: list[int]
) -> None:
    """25 messages and 2 workers."""
    monkeypatch.setattr("fl.engines.worker_pool.QUICK_S", quick)
    plan = Plan()
    crew = Objects(2, plan)
    crew.share_out(messages(1), None)
    crew.share_out(messages(25), None)
    assert plan.jobs == [1, *jobs]


def test_what_all_are_sent_reaches_each_worker_once_a_round() -> None:
    plan, model = Plan(), ArrayRecord()
    crew = Objects(3, plan)
    for _ in range(2):
        crew.share_out(messages(25, model), None)
        assert sum(plan.fresh) == len({*crew.hands}) == 3
        plan.fresh.clear()
