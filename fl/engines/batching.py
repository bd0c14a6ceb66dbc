"""Train the models of several clients side by side.

A client's answer to a message is a plain function that calls `fitted` when it needs a training. `together` runs many
such calls, one at a time, until each has returned or waits for its training. Then it trains similar models as one stack
(`models.training.batched`). A client's result does not depend on the other clients.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from models.nn.body import Body
from models.submodel import State
from models.training.batched import ClientBatch, fit_in_stack, fit_many, stackable
from models.training.loop import LogitCorrection, Recipe, fit

T = TypeVar("T")
Fitted = tuple[State, float]
"""The trained state, and the mean training loss of the last epoch."""


@dataclass(frozen=True)
class Fit:
    """A training that a client asks for.

    Args:
        body: a network of the right sizes. Other clients use it before and after.
        rate: HeteroFL's scaler of the network (`models.nn.body.Body.rate`).
        batch: initial parameters and data.
        recipe, epochs, correction: as in `models.training.loop.fit`.
    """

    body: Body
    rate: float
    batch: ClientBatch
    recipe: Recipe
    epochs: int
    correction: LogitCorrection

    @property
    def stackable(self) -> bool:
        """Whether it can be done side by side with others."""
        return stackable(self.body, self.recipe)

    @property
    def gains_by_waiting(self) -> bool:
        """Whether a stack takes several such trainings. Otherwise waiting for others would only take memory."""
        return self.stackable and fit_in_stack(self.body, len(self.batch.y), self.recipe, self.epochs) > 1

    @property
    def stack_key(self) -> tuple[object, ...]:
        """Equal for trainings that can share a stack."""
        gated = self.batch.gates is not None
        sizes = tuple(self.body.sizes.items())
        return type(self.body), sizes, self.rate, gated, self.recipe, self.epochs, self.correction


def make(fits: Sequence[Fit]) -> list[Fitted]:
    """Do trainings of equal `Fit.stack_key`, as one stack if possible, and return their results."""
    first = fits[0]
    body, how = first.body, (first.recipe, first.epochs)
    body.rate = first.rate
    if first.stackable:
        return fit_many(body, [one.batch for one in fits], *how, first.correction)
    results = []
    for batch in (one.batch for one in fits):
        body.load_state_dict(batch.state)
        data, corrected = (batch.x, batch.y), (batch.class_shares, first.correction)
        loss = fit(body, *data, *how, batch.generator, batch.gates, *corrected)
        results.append((body.state(), loss))
    return results


def fitted(request: Fit) -> Fitted:
    """Do a training and return its result. In a call of `together`, the trainings of other calls are done with it."""
    call: _PausableCall | None = getattr(_current, "call", None)
    return make([request])[0] if call is None else call.wait(request)


_current = threading.local()


class _CallThread:
    """A thread that runs one call after the other. Starting a thread for each call would take 0.2 ms."""

    idle: "ClassVar[list[_CallThread]]" = []

    def __init__(self) -> None:
        self.call: _PausableCall | None = None
        self.wake = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.wake.acquire()
            assert self.call is not None
            self.call.run()


class _PausableCall(Generic[T]):
    """A call in its own thread. It runs only while the thread that called `resume` waits.

    Attributes:
        request: the training that the call waits for; None if it has returned.
        result: what the call returned or raised.
    """

    def __init__(self, function: Callable[[], T]):
        self.function = function
        self.result: T | BaseException | None = None
        self.request: Fit | None = None
        self._trained: Fitted | Exception | None = None
        self._thread = _CallThread.idle.pop() if _CallThread.idle else _CallThread()
        self._thread.call = self
        self._resumed, self._paused = self._thread.wake, threading.Semaphore(0)

    def resume(self, trained: Fitted | Exception | None = None) -> None:
        """Run the call until it returns or needs a training; ``trained`` is the result of the last one that it needed.

        Raises:
            BaseException: one that ends the process, such as KeyboardInterrupt. An `Exception` stays in ``result``.
        """
        self.request, self._trained = None, trained
        self._resumed.release()
        self._paused.acquire()
        if isinstance(self.result, BaseException) and not isinstance(self.result, Exception):
            raise self.result

    def wait(self, request: Fit) -> Fitted:
        """Pause until the training is done, and return its result. The call's own thread calls this."""
        self.request = request
        self._paused.release()
        self._resumed.acquire()
        if isinstance(self._trained, Exception):
            raise self._trained
        assert self._trained is not None
        return self._trained

    def run(self) -> None:
        """Run the call from its beginning to its end. The call's own thread calls this."""
        _current.call = self
        try:
            self.result = self.function()
        except BaseException as error:
            self.result = error
        _current.call = self._thread.call = None  # else the thread would keep the call in memory
        _CallThread.idle.append(self._thread)
        self._paused.release()


def together(
    calls: Sequence[Callable[[], T]], spent: Callable[[float], None] = lambda seconds: None
) -> list[T | Exception]:
    """Return what each call returns, or the exception that it raises. Other calls continue after an exception.

    Args:
        spent: is called with the seconds that each stack took to train.
    """
    running: list[_PausableCall[T]] = []
    waiting: list[_PausableCall[T]] = []
    for function in calls:
        running.append(call := _PausableCall(function))  # reuses the thread of a call that has returned
        call.resume()
        while call.request is not None and not call.request.gains_by_waiting:
            call.resume(_try([call.request], spent)[0])
        if call.request is not None:
            waiting.append(call)
    while waiting:
        stacks: dict[tuple[object, ...], list[_PausableCall[T]]] = defaultdict(list)
        for call in waiting:
            assert call.request is not None
            stacks[call.request.stack_key].append(call)
        for stack in stacks.values():
            results = _try([call.request for call in stack], spent)
            for call, trained in zip(stack, results, strict=True):
                call.resume(trained)
        waiting = [call for call in waiting if call.request is not None]
    return [call.result for call in running]  # type: ignore[misc]


def _try(fits: Sequence[Fit | None], spent: Callable[[float], None]) -> Sequence[Fitted | Exception]:
    """Return the results of `make`; if it raises an exception, that exception for each training."""
    began = time.perf_counter()
    try:
        return make(fits)  # type: ignore[arg-type]
    except Exception as error:
        return [error] * len(fits)
    finally:
        spent(time.perf_counter() - began)
