"""How many devices share one model: requests that wait together are answered together, and passes take turns."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Answers requests of many threads. Those of one shape that wait at the same time go through the model together.

    The request that has waited longest is always in the next batch. If ``room`` requests wait, `ask` blocks: the thread
    of that device reads nothing more from its socket, so its device waits too.

    Args:
        answer: returns the answers to some requests of one shape, in order.
        shape: of a request.
        most: requests in a batch; room: requests that may wait.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Sequence[A]], shape: Callable[[Q], Hashable], most: int = 32,
        room: int = 64,
    ):  # fmt: skip
        self._answer, self._shape, self._most, self._room = answer, shape, most, room
        self._waiting: deque[tuple[Q, Future[A]]] = deque()
        self._changed, self._open = threading.Condition(), True
        threading.Thread(target=self._run, name="batches", daemon=True).start()

    def ask(self, request: Q) -> A:
        """Return the answer. Raises what ``answer`` raises for this request alone; RuntimeError after `close`."""
        answer: Future[A] = Future()
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._room or not self._open)
            if not self._open:
                raise RuntimeError("the model is no longer served")
            self._waiting.append((request, answer))
            self._changed.notify_all()
        return answer.result()

    def close(self) -> None:
        """Answer what waits, and nothing more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _run(self) -> None:
        while batch := self._next():
            try:
                answers = self._answer([request for request, _ in batch])
            except Exception:  # one request may be at fault: the others shall have their answers
                for request, future in batch:
                    try:
                        future.set_result(self._answer([request])[0])
                    except Exception as error:
                        future.set_exception(error)
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)

    def _next(self) -> list[tuple[Q, "Future[A]"]]:
        """Return the next batch, when there is one; empty after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            batch: list[tuple[Q, Future[A]]] = []
            others: deque[tuple[Q, Future[A]]] = deque()
            for entry in self._waiting:
                fits = not batch or self._shape(entry[0]) == self._shape(batch[0][0])
                (batch if fits and len(batch) < self._most else others).append(entry)
            self._waiting = others
            self._changed.notify_all()
            return batch


class Turns:
    """Lets a number of threads compute at a time, in the order in which they came.

    So each of many devices gets a pass of the base in turn, and none waits for the whole answer of another.

    Args:
        at_once: threads.
    """

    def __init__(self, at_once: int = 1):
        self._free, self._line, self._changed = at_once, deque[object](), threading.Condition()

    @property
    def idle(self) -> bool:
        """Whether a turn would begin at once."""
        return bool(self._free) and not self._line

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and give it back at the end of the block."""
        me = object()
        with self._changed:
            self._line.append(me)
            self._changed.wait_for(lambda: self._free and self._line[0] is me)
            self._line.popleft()
            self._free -= 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
