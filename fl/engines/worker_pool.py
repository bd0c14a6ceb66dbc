"""Distributes the messages of a round to workers. Free workers get the next messages; dead workers are replaced."""

import math
import pickle
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from flwr.app import ArrayRecord, Error, Message

from fl.engines.engine import DIED, Aggregator
from fl.engines.worker_server import WorkerServer, pack
from partitions.errors import UserError

PARTS = 4  # a job is 1/PARTS of a worker's even share of the remaining messages: few jobs, and all workers end together
QUICK_S = 0.2  # a shorter round is split evenly at once: clients that are trained side by side save more
START_S = 180.0  # longest wait for the first worker


class EngineFailed(UserError):
    """The engine cannot compute anything. The message is one sentence for the user."""


class WorkerDied(Exception):
    """A worker is gone without a result. The message gives the cause if it is known."""


class Worker(ABC):
    """A `WorkerServer` in another process. It makes one call at a time; the first is `WorkerServer.start`."""

    @abstractmethod
    def call(self, method: str, *args: Any) -> None:
        """Let the worker call a method of its `WorkerServer`. Does not wait. `result` reports a dead worker."""

    @abstractmethod
    def result(self) -> bytes:
        """Wait for the result of the last call.

        Raises:
            WorkerDied: There will be no result.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop the worker at once."""


@dataclass(eq=False)
class Slot:
    """The place of one worker in the pool, and its state.

    Args:
        doing: The method that the worker is running, '' if none.
        job: The messages that it is answering. since: When it got them.
        unmerged: Messages whose updates are only in this worker's part of the aggregate.
        in_round: The worker has got a job of this round.
        records: Keys of the shared records that it has.
    """

    worker: Worker
    doing: str = "start"
    job: list[Message] = field(default_factory=list)
    since: float = 0.0
    unmerged: list[Message] = field(default_factory=list)
    in_round: bool = False
    records: set[int] = field(default_factory=set)

    def call(self, method: str, *args: Any) -> None:
        self.doing = method
        self.worker.call(method, *args)


class WorkerPool(ABC):
    """Workers of one kind.

    Args:
        size: Number of workers.
        server: What each of them runs.
        quick_s: A round that takes fewer seconds is split evenly at once.
    """

    def __init__(self, size: int, server: WorkerServer, quick_s: float = QUICK_S):
        self.size, self.server, self.quick_s = size, server, quick_s
        self.slots: list[Slot] = []
        self.deaths = 0  # workers that died since the last reply
        self.message_s = math.inf  # seconds that a worker took for a message, mean of the last round
        self.trained_s = 0.0  # seconds of training in the last round, summed over the workers

    @abstractmethod
    def spawn(self) -> Worker:
        """Start a worker, without waiting until it is ready."""

    @abstractmethod
    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        """Wait for the first worker that has a result or died. Returns all such workers."""

    def put(self, record: bytes) -> Any:
        """Return what workers are sent in place of a shared record."""
        return record

    def start(self) -> None:
        """Start all workers before there is a message: starting takes seconds, in which the server can prepare."""
        while len(self.slots) < self.size:
            self.slots.append(Slot(self.spawn()))

    def run(
        self, messages: Sequence[Message], aggregator: Aggregator | None, on_reply: Callable[[], None] | None = None
    ) -> dict[str, Message]:
        """Answer messages. A message that kills two workers, each time alone, gets an error reply.

        Args:
            messages: The longest work first, so that all workers end together.
            aggregator: Empty; afterwards it holds the aggregate of the replies.
            on_reply: Called after every reply.

        Returns:
            The replies by message id.

        Raises:
            EngineFailed: Every worker dies, or none starts.
        """
        self.trained_s = 0.0
        try:
            return _Round(self, messages, aggregator, on_reply).run()
        except BaseException:
            self.close()  # the workers are in the middle of a job
            raise

    def close(self) -> None:
        """Stop all workers."""
        for slot in self.slots:
            slot.worker.stop()
        self.slots = []


class _Round:
    def __init__(
        self,
        pool: WorkerPool,
        messages: Sequence[Message],
        aggregator: Aggregator | None,
        on_reply: Callable[[], None] | None,
    ):
        self.pool, self.aggregator, self.on_reply = pool, aggregator, on_reply
        self.todo = deque(messages)
        share = math.ceil(len(messages) / pool.size)
        self.share = share if share * pool.message_s < pool.quick_s else 0
        self.retries: deque[Message] = deque()  # messages of workers that died: sent again one by one
        self.deaths: Counter[str] = Counter()  # workers that died with this message alone
        self.replies: dict[str, Message] = {}
        self.empty = pickle.dumps(aggregator)
        self.answered, self.worked_s = 0, 0.0
        every = [r for message in messages for r in message.content.values() if isinstance(r, ArrayRecord)]
        uses, records = Counter(id(record) for record in every), {id(record): record for record in every}
        self.keys = dict(zip((name for name in records if uses[name] > 1), count()))
        self.records: dict[int, ArrayRecord] = {self.keys[name]: records[name] for name in self.keys}
        self.handles: dict[int, Any] = {}
        for slot in pool.slots:
            slot.in_round = False

    def run(self) -> dict[str, Message]:
        waiting = time.monotonic()
        while self._assign():
            busy = {id(slot.worker): slot for slot in self.pool.slots if slot.doing}
            ready = self.pool.ready([slot.worker for slot in busy.values()], timeout=1.0)
            for worker in ready:
                self._receive(busy[id(worker)])
            if ready or any(slot.doing not in ("", "start") for slot in self.pool.slots):
                waiting = time.monotonic()
            elif time.monotonic() - waiting > START_S:
                raise EngineFailed(f"no worker started within {START_S:.0f} s; are there free cores, and is Ray well?")
        return self.replies

    def _assign(self) -> bool:
        """Give each free worker something to do. Returns whether there is a result to wait for."""
        pool = self.pool
        while len(pool.slots) < min(pool.size, len(self.todo) + len(self.retries)):
            pool.slots.append(Slot(pool.spawn()))
        for slot in pool.slots:
            if slot.doing:
                continue
            if job := self._next_job():
                self._send(slot, job)
            elif slot.unmerged:
                slot.call("part")
        return bool(self.todo or self.retries or any(slot.doing not in ("", "start") for slot in pool.slots))

    def _next_job(self) -> list[Message]:
        if self.todo:
            size = self.share or math.ceil(len(self.todo) / self.pool.size / PARTS)
            return [self.todo.popleft() for _ in range(min(size, len(self.todo)))]
        return [self.retries.popleft()] if self.retries else []

    def _send(self, slot: Slot, job: list[Message]) -> None:
        empty = None
        if not slot.in_round:
            slot.in_round, slot.records, empty = True, set(), self.empty
        packed, used = pack(job, self.keys)
        for key in used - self.handles.keys():
            self.handles[key] = self.pool.put(pickle.dumps(self.records[key]))
        slot.job, slot.since = job, time.monotonic()
        new = {key: self.handles[key] for key in used - slot.records}
        last = self.share > 0 or not (self.todo or self.retries)  # a guess: if a worker dies, there are more jobs
        slot.call("work", empty, packed, new, last)
        slot.records |= used

    def _receive(self, slot: Slot) -> None:
        try:
            result = slot.worker.result()
        except WorkerDied as why:
            self._on_death(slot, why)
            return
        done, slot.doing = slot.doing, ""
        if done == "part":
            self._merge(slot, pickle.loads(result))
        elif done == "work":
            self.pool.deaths = 0
            replies, trained_s, part = pickle.loads(result)
            asked = (message.metadata.message_id for message in slot.job)  # a reply may name another message
            self.replies |= dict(zip(asked, replies, strict=True))
            self.pool.trained_s += trained_s
            self.answered += len(slot.job)
            self.worked_s += time.monotonic() - slot.since
            self.pool.message_s = self.worked_s / self.answered
            answered, slot.job = slot.job, []
            if self.aggregator is not None:
                slot.unmerged += answered
            if part is not None:
                self._merge(slot, part)
            if self.on_reply:
                for _ in answered:
                    self.on_reply()

    def _merge(self, slot: Slot, part: Any) -> None:
        assert self.aggregator is not None
        self.aggregator.merge(part)
        slot.unmerged = []

    def _on_death(self, slot: Slot, why: WorkerDied) -> None:
        pool = self.pool
        pool.slots.remove(slot)
        slot.worker.stop()
        pool.deaths += 1
        if pool.deaths > 2 * pool.size + 8:
            raise EngineFailed(
                f"{pool.deaths} workers in a row died before they sent a reply ({why}); "
                f"is there enough memory for {pool.size} of them?"
            )
        self.todo.extend(slot.unmerged)  # their updates are lost with the worker's part of the aggregate
        for message in slot.job:
            name = message.metadata.message_id
            self.deaths[name] += len(slot.job) == 1  # of several messages, nobody knows which one killed the worker
            if self.deaths[name] < 2:
                self.retries.append(message)
            else:
                self.replies[name] = Message(Error(DIED, "the message killed two workers"), reply_to=message)
