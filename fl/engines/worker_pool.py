"""A round shared out among workers: whoever is free gets the next messages, and the work of the dead is done again."""

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

from fl.engines.worker_server import DIED, Fold, pack

PARTS = 4  # a job is the PARTS-th part of a worker's even share of what is left: few trips, and all finish together
QUICK_S = 0.2  # a round that takes less is shared out evenly at once: devices trained side by side gain more
START_S = 180.0  # longest wait for the first worker


class EngineFailed(RuntimeError):
    """Nothing can be computed; the message is one sentence for the user."""


class Died(Exception):
    """A worker is gone, and what it was asked for will not come; the message says why, as far as it is known."""


class Worker(ABC):
    """A `fl.engines.worker_server.Host` in another process. It is given one thing to do at a time; the first is to start."""

    @abstractmethod
    def ask(self, verb: str, *args: Any) -> None:
        """Let it call ``host.<verb>(*args)``. Does not wait; that a worker is dead is said by `result`."""

    @abstractmethod
    def result(self) -> bytes:
        """What it was asked for, as soon as it is there.

        Raises:
            Died: instead.
        """

    @abstractmethod
    def stop(self) -> None:
        """End it, also in the middle of its work."""


@dataclass(eq=False)
class Hand:
    """A worker and what it is at.

    Args:
        doing: '' is nothing; job: the messages that it answers, since when.
        summed: messages whose answers are in a sum that only this worker has.
        begun: it knows of the present round; knows: the shared records that it has.
    """

    worker: Worker
    doing: str = "start"
    job: list[Message] = field(default_factory=list)
    since: float = 0.0
    summed: list[Message] = field(default_factory=list)
    begun: bool = False
    knows: set[int] = field(default_factory=set)

    def ask(self, verb: str, *args: Any) -> None:
        self.doing = verb
        self.worker.ask(verb, *args)


class Crew(ABC):
    """Workers of one kind.

    Args:
        size: how many.
    """

    def __init__(self, size: int):
        self.size = size
        self.hands: list[Hand] = []
        self.dead = 0  # since anybody answered anything
        self.pace = math.inf  # seconds that a worker takes for a device, the mean of the last round
        self.trained_s = 0.0  # that training took in the last round, summed over the workers

    @abstractmethod
    def hire(self) -> Worker:
        """Start a worker; does not wait until it has."""

    @abstractmethod
    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        """Those that have a result, or died; waits for the first."""

    def put(self, record: bytes) -> Any:
        """What workers are sent for a shared record."""
        return record

    def start(self) -> None:
        """Hire everybody before there is anything to do: starting takes seconds, in which others may prepare."""
        while len(self.hands) < self.size:
            self.hands.append(Hand(self.hire()))

    def share_out(
        self, messages: Sequence[Message], fold: Fold | None, heard: Callable[[], None] | None = None
    ) -> dict[str, Message]:
        """The answers, by message id. A device that killed two workers alone gets an error for an answer.

        Args:
            messages: what takes longest comes first.
            fold: empty; is given the sum of the answers.
            heard: called after every answer.

        Raises:
            EngineFailed: workers die whatever they do, or none starts.
        """
        self.trained_s = 0.0
        try:
            return _Round(self, messages, fold, heard).run()
        except BaseException:
            self.close()  # they are in the middle of something
            raise

    def close(self) -> None:
        """Stop all workers."""
        for hand in self.hands:
            hand.worker.stop()
        self.hands = []


class _Round:
    def __init__(self, crew: Crew, messages: Sequence[Message], fold: Fold | None, heard: Callable[[], None] | None):
        self.crew, self.fold, self.heard = crew, fold, heard
        self.todo = deque(messages)
        even = math.ceil(len(messages) / crew.size)
        self.even = even if even * crew.pace < QUICK_S else 0
        self.alone: deque[Message] = deque()  # in the hands of a worker that died: asked again, one by one
        self.deaths: Counter[str] = Counter()
        self.answers: dict[str, Message] = {}
        self.blank = pickle.dumps(fold)
        self.answered, self.worked_s = 0, 0.0
        every = [r for message in messages for r in message.content.values() if isinstance(r, ArrayRecord)]
        uses, records = Counter(id(record) for record in every), {id(record): record for record in every}
        self.keys = dict(zip((name for name in records if uses[name] > 1), count()))
        self.records: dict[int, ArrayRecord] = {self.keys[name]: records[name] for name in self.keys}
        self.handles: dict[int, Any] = {}
        for hand in crew.hands:
            hand.begun = False

    def run(self) -> dict[str, Message]:
        waiting = time.monotonic()
        while self._employ():
            busy = {id(hand.worker): hand for hand in self.crew.hands if hand.doing}
            ready = self.crew.ready([hand.worker for hand in busy.values()], timeout=1.0)
            for worker in ready:
                self._hear(busy[id(worker)])
            if ready or any(hand.doing not in ("", "start") for hand in self.crew.hands):
                waiting = time.monotonic()
            elif time.monotonic() - waiting > START_S:
                raise EngineFailed(f"no worker started within {START_S:.0f} s; are there free cores, and is Ray well?")
        return self.answers

    def _employ(self) -> bool:
        """Give everybody something to do. Returns whether there is anything to wait for."""
        crew = self.crew
        while len(crew.hands) < min(crew.size, len(self.todo) + len(self.alone)):
            crew.hands.append(Hand(crew.hire()))
        for hand in crew.hands:
            if hand.doing:
                continue
            if job := self._next():
                self._give(hand, job)
            elif hand.summed:
                hand.ask("part")
        return bool(self.todo or self.alone or any(hand.doing not in ("", "start") for hand in crew.hands))

    def _next(self) -> list[Message]:
        if self.todo:
            size = self.even or math.ceil(len(self.todo) / self.crew.size / PARTS)
            return [self.todo.popleft() for _ in range(min(size, len(self.todo)))]
        return [self.alone.popleft()] if self.alone else []

    def _give(self, hand: Hand, job: list[Message]) -> None:
        blank = None
        if not hand.begun:
            hand.begun, hand.knows, blank = True, set(), self.blank
        packed, used = pack(job, self.keys)
        for key in used - self.handles.keys():
            self.handles[key] = self.crew.put(pickle.dumps(self.records[key]))
        hand.job, hand.since = job, time.monotonic()
        fresh = {key: self.handles[key] for key in used - hand.knows}
        last = self.even > 0 or not (self.todo or self.alone)  # as far as one knows: somebody may die
        hand.ask("work", blank, packed, fresh, last)
        hand.knows |= used

    def _hear(self, hand: Hand) -> None:
        try:
            result = hand.worker.result()
        except Died as why:
            self._bury(hand, why)
            return
        done, hand.doing = hand.doing, ""
        if done == "part":
            self._merge(hand, pickle.loads(result))
        elif done == "work":
            self.crew.dead = 0
            replies, trained_s, part = pickle.loads(result)
            self.answers |= {reply.metadata.reply_to_message_id: reply for reply in replies}
            self.crew.trained_s += trained_s
            self.answered += len(hand.job)
            self.worked_s += time.monotonic() - hand.since
            self.crew.pace = self.worked_s / self.answered
            if self.fold is not None:
                hand.summed += hand.job
            if part is not None:
                self._merge(hand, part)
            if self.heard:
                for _ in hand.job:
                    self.heard()
            hand.job = []

    def _merge(self, hand: Hand, part: Any) -> None:
        assert self.fold is not None
        self.fold.merge(part)
        hand.summed = []

    def _bury(self, hand: Hand, why: Died) -> None:
        crew = self.crew
        crew.hands.remove(hand)
        hand.worker.stop()
        crew.dead += 1
        if crew.dead > 2 * crew.size + 8:
            raise EngineFailed(
                f"{crew.dead} workers in a row died before they answered anything ({why}); is there enough memory for "
                f"{crew.size} of them?"
            )
        self.todo.extend(hand.summed)  # what they sent is lost with the sum
        for message in hand.job:
            name = message.metadata.message_id
            self.deaths[name] += len(hand.job) == 1  # of several, nobody knows which it was
            if self.deaths[name] < 2:
                self.alone.append(message)
            else:
                self.answers[name] = Message(Error(DIED, "it killed two workers"), reply_to=message)
