"""The in-process engine: a Flower `Grid` that calls the ClientApp directly, in this process or in a pool of workers.

Same ServerApp, same ClientApp, same messages as under Flower; no Ray, no SuperLink, no start-up. `context.state` does
not live from one message to the next here: a device keeps what it must in its `fl.store.Store`, as on every engine.
"""

import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Self

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER = 1  # the node id of whoever asks
AT_ONCE = 32  # messages that a process answers at the same time
PARTS = 3  # into which the even share of a worker is cut
FAILED, DIED = 2, 0  # Flower's error codes for an exception in the ClientApp and for a dead process
_numbers = itertools.count(1)


def _identify(run_id: int) -> None:
    """Outside a Flower run nobody says who this process is, and messages cannot be made without it."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, SERVER


def _answer(message: Message, context: Context) -> Message:
    """The device's answer to one message; an exception becomes an error reply, as under Flower."""
    from fl.client_app import app

    try:
        return app(message, context)
    except Exception:
        return Message(Error(FAILED, traceback.format_exc(limit=-3)), reply_to=message)


def _answers(calls: list[Callable[[], Message]]) -> list[Message]:
    """Several answers, their devices trained side by side."""
    from fl.fits import together

    return together(calls)  # type: ignore[return-value]  # `_answer` lets no exception through


def _start_worker(run_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_follow_parent, daemon=True).start()
    _identify(run_id)


def _follow_parent() -> None:
    """A worker ends with its parent, however that dies: nothing else would tell it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


class LocalGrid(Grid):
    """Virtual nodes 0 ... ``nodes`` - 1 on this machine.

    Args:
        run_config: what the ClientApp finds in its context.
        nodes: how many there are.
        workers: processes; 1 runs everything in this one.
        run_id: tells apart what devices keep from run to run.
        on_reply: called after every answer, for a progress display.
    """

    def __init__(
        self,
        run_config: dict[str, Any],
        nodes: int,
        workers: int = 1,
        run_id: int | None = None,
        on_reply: Callable[[], None] | None = None,
    ):
        self.run_config, self.nodes, self.workers, self.on_reply = run_config, nodes, workers, on_reply
        self.run_id = run_id if run_id is not None else int.from_bytes(os.urandom(6))
        self._pool: ProcessPoolExecutor | None = None
        self._mailbox: dict[str, Message] = {}
        _identify(self.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, also in the middle of their work."""
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            # A worker that is stopped in the middle of an answer would leave the pool's thread waiting for the rest of
            # it, and this process unable to end; without a writer left, the thread reads the end of the stream instead.
            self._pool._result_queue._writer.close()  # type: ignore[attr-defined]
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
            self._pool = None

    def set_run(self, run: Run) -> None:
        self.run_id = run.run_id

    @property
    def run(self) -> Run:
        return Run.create_empty(self.run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return range(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        replies = list(self.send_and_receive(messages))
        self._mailbox |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._mailbox.pop(name) for name in message_ids if name in self._mailbox]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Answers in the order of the messages; nothing here can be late, so ``timeout`` has nothing to do."""
        asked = list(messages)
        for message in asked:
            message.metadata.__dict__["_message_id"] = str(next(_numbers))  # the stock grids set it in the same way
        if self.workers == 1:
            return [r for part in self._parts(asked) for r in self._replied(_answers(self._calls(part)))]
        replies, lost = self._spread(asked)
        # A worker that died takes the pool with it. Ask again one by one: only the message that kills it stays
        # unanswered.
        for message in lost:
            again, dead = self._spread([message])
            replies |= again
            if dead:
                reply = Message(Error(DIED, "the worker process died"), reply_to=message)
                (replies[message.metadata.message_id],) = self._replied([reply])
        return [replies[message.metadata.message_id] for message in asked]

    def _parts(self, messages: list[Message]) -> Iterator[list[Message]]:
        """Few at a time: enough to train them side by side, so many parts that workers finish together."""
        size = AT_ONCE if self.workers == 1 else min(AT_ONCE, 1 + len(messages) // (self.workers * PARTS))
        for at in range(0, len(messages), size):
            yield messages[at : at + size]

    def _spread(self, messages: list[Message]) -> tuple[dict[str, Message], list[Message]]:
        """(replies by message id, messages lost to a dead worker)."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, spawn, _start_worker, (self.run_id,))
        replies: dict[str, Message] = {}
        lost: list[Message] = []
        futures = {self._pool.submit(_answers, self._calls(part)): part for part in self._parts(messages)}
        for future in as_completed(futures):
            try:
                got = self._replied(future.result())
                replies |= {reply.metadata.reply_to_message_id: reply for reply in got}
            except BrokenProcessPool:
                lost += futures[future]
        if lost:
            self.close()
        return replies, sorted(lost, key=lambda message: int(message.metadata.message_id))

    def _replied(self, replies: list[Message]) -> list[Message]:
        if self.on_reply:
            for _ in replies:
                self.on_reply()
        return replies

    def _calls(self, messages: list[Message]) -> list[Callable[[], Message]]:
        return [partial(_answer, message, self._context(message)) for message in messages]

    def _context(self, message: Message) -> Context:
        node = message.metadata.dst_node_id
        config: dict[str, bool | float | int | str] = {"partition-id": node, "num-partitions": self.nodes}
        return Context(self.run_id, node, config, RecordDict(), self.run_config)
