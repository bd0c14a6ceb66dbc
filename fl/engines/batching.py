"""Trainings that devices ask for, so that those of one process can be trained side by side.

What a device does with a message is a plain function that calls `fitted` for the training in it. `together` lets many
such functions go on, one at a time, until each is done or waits for its training; then those that are alike are trained
as one stack (`models.training.batched`). The outcome is the same as one by one, bit for bit as far as it is there.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from models.nn.body import Body
from models.submodel import State
from models.training.batched import ClientBatch, fit_many, stackable
from models.training.loop import LogitCorrection, Recipe, fit

T = TypeVar("T")
Fitted = tuple[State, float]
"""The trained state, and the mean training loss of the last epoch."""


@dataclass(frozen=True)
class Fit:
    """A training that a device asks for.

    Args:
        body: a network to do it with; others use it before and after.
        rate: of the network.
        lesson: what to start from and to learn from.
        recipe, epochs, masking: as in `models.training.loop.fit`.
    """

    body: Body
    rate: float
    lesson: ClientBatch
    recipe: Recipe
    epochs: int
    masking: LogitCorrection

    @property
    def stackable(self) -> bool:
        """Whether it can be made side by side with others."""
        return stackable(self.body, self.recipe)

    @property
    def like(self) -> tuple[object, ...]:
        """Equal for those that fit into one stack."""
        gated = self.lesson.gates is not None
        return type(self.body), tuple(self.body.sizes.items()), self.rate, gated, self.recipe, self.epochs, self.masking


def make(fits: Sequence[Fit]) -> list[Fitted]:
    """What comes of fits that are alike."""
    first = fits[0]
    body, how = first.body, (first.recipe, first.epochs)
    body.rate = first.rate
    if first.stackable:
        return fit_many(body, [one.lesson for one in fits], *how, first.masking)
    out = []
    for lesson in (one.lesson for one in fits):
        body.load_state_dict(lesson.state)
        loss = fit(body, lesson.x, lesson.y, *how, lesson.generator, lesson.gates, lesson.shares, first.masking)
        out.append((body.state(), loss))
    return out


def fitted(asked: Fit) -> Fitted:
    """What comes of a fit; under `together` it is made along with those of the others."""
    turn: _Turn | None = getattr(_here, "turn", None)
    return make([asked])[0] if turn is None else turn.wait(asked)


_here = threading.local()


class _Thread:
    """Runs one turn after the other: starting a thread for each takes 0.2 ms."""

    idle: "ClassVar[list[_Thread]]" = []

    def __init__(self) -> None:
        self.turn: _Turn | None = None
        self.wake = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.wake.acquire()
            assert self.turn is not None
            self.turn.run()


class _Turn(Generic[T]):
    """A call that runs in a thread of its own, and only while whoever lets it `go_on` waits."""

    def __init__(self, call: Callable[[], T]):
        self.call = call
        self.done: T | BaseException | None = None
        self.asked: Fit | None = None
        self.made: Fitted | Exception | None = None
        self._thread = _Thread.idle.pop() if _Thread.idle else _Thread()
        self._thread.turn = self
        self._mine, self._theirs = self._thread.wake, threading.Semaphore(0)

    def go_on(self, made: Fitted | Exception | None = None) -> None:
        """Returns when the call is done or has asked for a fit; ``made`` is the one that it asked for before."""
        self.asked, self.made = None, made
        self._mine.release()
        self._theirs.acquire()
        if isinstance(self.done, BaseException) and not isinstance(self.done, Exception):
            raise self.done  # it is the process that is meant, not the call

    def wait(self, asked: Fit) -> Fitted:
        """In the call's own thread."""
        self.asked = asked
        self._theirs.release()
        self._mine.acquire()
        if isinstance(self.made, Exception):
            raise self.made
        assert self.made is not None
        return self.made

    def run(self) -> None:
        """In the call's own thread, from its beginning to its end."""
        _here.turn = self
        try:
            self.done = self.call()
        except BaseException as error:
            self.done = error
        _here.turn = self._thread.turn = None  # nothing of it stays in memory
        _Thread.idle.append(self._thread)
        self._theirs.release()


def together(
    calls: Sequence[Callable[[], T]], spent: Callable[[float], None] = lambda seconds: None
) -> list[T | Exception]:
    """What each call returns, or the exception that it raised, which does not touch the others.

    Args:
        spent: is told the seconds that each stack of trainings took.
    """
    turns: list[_Turn[T]] = []
    waiting: list[_Turn[T]] = []
    for call in calls:
        turns.append(turn := _Turn(call))  # in the thread of one that is done already, if there is one
        turn.go_on()
        while turn.asked is not None and not turn.asked.stackable:  # made at once: others would only be in memory
            turn.go_on(_try([turn.asked], spent)[0])
        if turn.asked is not None:
            waiting.append(turn)
    while waiting:
        stacks: dict[tuple[object, ...], list[_Turn[T]]] = defaultdict(list)
        for turn in waiting:
            assert turn.asked is not None
            stacks[turn.asked.like].append(turn)
        for alike in stacks.values():
            for turn, made in zip(alike, _try([turn.asked for turn in alike], spent), strict=True):
                turn.go_on(made)
        waiting = [turn for turn in waiting if turn.asked is not None]
    return [turn.done for turn in turns]  # type: ignore[misc]


def _try(fits: Sequence[Fit | None], spent: Callable[[float], None]) -> Sequence[Fitted | Exception]:
    began = time.perf_counter()
    try:
        return make(fits)  # type: ignore[arg-type]
    except Exception as error:
        return [error] * len(fits)
    finally:
        spent(time.perf_counter() - began)
