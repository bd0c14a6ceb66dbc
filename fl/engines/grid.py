"""Flower grids that call the ClientApp directly, in this process or in workers: no SuperLink, no start-up time.

ServerApp, ClientApp and messages are the same as under Flower. `context.state` does not last from one message to the
next, so a client keeps its state in `fl.workloads.state_store.Store`, as on every engine.
"""

import itertools
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from flwr.app import Message, RecordDict
from flwr.supercore.run import Run

from fl.engines.engine import Aggregator, Engine
from fl.engines.processes import ProcessPool
from fl.engines.worker_pool import WorkerPool
from fl.engines.worker_server import ClientCall, WorkerServer, answer, set_task_identity

AT_ONCE = 32  # messages that this process answers at the same time
_numbers = itertools.count(1)


class WorkerGrid(Engine):
    """Virtual nodes 0 ... ``nodes`` - 1. Workers aggregate their replies.

    Args:
        run_config: Run-config in the context of the ClientApp.
        nodes: Number of virtual nodes.
        workers: Number of workers.
        run_id: Identifies the run; clients keep their state under it.
        on_reply: Called after every reply, for a progress display.
        client_app: Called for every message; by default this project's ClientApp. Workers must be able to import it.
        node_config: Returns a node's node-config. None: virtual node i has partition i.
    """

    def __init__(
        self,
        run_config: dict[str, Any],
        nodes: int,
        workers: int = 1,
        run_id: int | None = None,
        on_reply: Callable[[], None] | None = None,
        client_app: ClientCall = answer,
        node_config: Callable[[int], Mapping[str, Any]] | None = None,
    ):
        self.run_config, self.nodes, self.workers, self.on_reply = run_config, nodes, workers, on_reply
        self.client_app, self.node_config = client_app, node_config
        self.run_id = run_id if run_id is not None else int.from_bytes(os.urandom(6))
        self.trained_s = 0.0  # seconds of training so far, summed over the workers
        self.pool: WorkerPool | None = None
        self._mailbox: dict[str, Message] = {}
        set_task_identity(self.run_id)

    @property
    def size(self) -> int:
        """Number of processes that call the ClientApp."""
        return self.pool.size if self.pool else 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers now, not with the first messages."""
        self.pool = self.pool or self._new_pool()
        if self.pool is not None:
            self.pool.start()

    def close(self) -> None:
        """Stop the workers at once."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None

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
        """Return the replies in the order of the messages. No reply is ever late, so ``timeout`` has no effect."""
        return self._exchange(list(messages), None)

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and aggregate the replies in the workers. See `Engine.aggregate`; ``timeout`` has no effect.

        Raises:
            EngineFailed: Every worker dies, or none starts.
        """
        return self._exchange(list(messages), aggregator)

    def _exchange(self, messages: list[Message], aggregator: Aggregator | None) -> list[Message]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(_numbers))  # Flower's grids set it in the same way
        self.pool = self.pool or self._new_pool()
        if self.pool is None:
            return self._answer_here(messages, aggregator)
        replies = self.pool.run(messages, aggregator, self.on_reply)
        self.trained_s += self.pool.trained_s
        return [replies[message.metadata.message_id] for message in messages]

    def _answer_here(self, messages: list[Message], aggregator: Aggregator | None) -> list[Message]:
        """Answer messages in this process."""
        here, replies = replace(self.worker_server, aggregator=aggregator), list[Message]()
        for at in range(0, len(messages), AT_ONCE):
            some, trained_s = here.replies(messages[at : at + AT_ONCE])
            replies += some
            self.trained_s += trained_s
            if self.on_reply:
                for _ in some:
                    self.on_reply()
        return replies

    @property
    def worker_server(self) -> WorkerServer:
        """What each worker runs."""
        return WorkerServer(self.run_id, self.nodes, self.run_config, self.client_app, self.node_config)

    @abstractmethod
    def _new_pool(self) -> WorkerPool | None:
        """Create the workers. None: this process does their work."""


class LocalGrid(WorkerGrid):
    """Virtual nodes on this machine. With one worker, this process answers all messages."""

    def _new_pool(self) -> WorkerPool | None:
        return ProcessPool(self.workers, self.worker_server) if self.workers > 1 else None
