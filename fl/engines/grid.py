"""The in-process engine: a Flower `Grid` that calls the ClientApp directly, in this process or in a pool of workers.

Same ServerApp, same ClientApp, same messages as under Flower; no Ray, no SuperLink, no start-up. `context.state` does
not live from one message to the next here: a device keeps what it must in its `fl.workloads.state_store.Store`, as on every engine.
"""

import itertools
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl.engines import worker_server as host
from fl.engines.processes import Processes
from fl.engines.worker_pool import Crew
from fl.engines.worker_server import Fold, Host, identify

AT_ONCE = 32  # messages that this process answers at the same time
_numbers = itertools.count(1)


class OwnGrid(Grid):
    """Virtual nodes 0 ... ``nodes`` - 1, whose answers may be added up where they are made.

    Args:
        run_config: what the ClientApp finds in its context.
        nodes: how many there are.
        run_id: tells apart what devices keep from run to run.
        on_reply: called after every answer, for a progress display.
    """

    def __init__(
        self,
        run_config: dict[str, Any],
        nodes: int,
        run_id: int | None = None,
        on_reply: Callable[[], None] | None = None,
    ):
        self.run_config, self.nodes, self.on_reply = run_config, nodes, on_reply
        self.run_id = run_id if run_id is not None else int.from_bytes(os.urandom(6))
        self.trained_s = 0.0  # that devices' trainings took so far, summed over the workers
        self._crew: Crew | None = None
        self._mailbox: dict[str, Message] = {}
        identify(self.run_id)

    @property
    def size(self) -> int:
        """How many processes stand in for devices."""
        return self._crew.size if self._crew else 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers now, not when the first messages are sent."""
        self._crew = self._crew or self._hire()
        if self._crew is not None:
            self._crew.start()

    def close(self) -> None:
        """Stop the workers, also in the middle of their work."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

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
        return self._exchange(list(messages), None)

    def send_and_fold(self, messages: Iterable[Message], fold: Fold) -> Iterable[Message]:
        """The same, but ``fold`` takes the answers, in the workers, and what it leaves of them is returned.

        Raises:
            EngineFailed: workers die whatever they do.
        """
        return self._exchange(list(messages), fold)

    def _exchange(self, messages: list[Message], fold: Fold | None) -> list[Message]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(_numbers))  # the stock grids set it in the same way
        self._crew = self._crew or self._hire()
        if self._crew is None:
            return self._alone(messages, fold)
        replies = self._crew.share_out(messages, fold, self.on_reply)
        self.trained_s += self._crew.trained_s
        return [replies[message.metadata.message_id] for message in messages]

    def _alone(self, messages: list[Message], fold: Fold | None) -> list[Message]:
        """Without workers, in this process."""
        here, replies = replace(self._host, fold=fold), list[Message]()
        for at in range(0, len(messages), AT_ONCE):
            some, trained_s = here.replies(messages[at : at + AT_ONCE])
            replies += some
            self.trained_s += trained_s
            if self.on_reply:
                for _ in messages[at : at + AT_ONCE]:
                    self.on_reply()
        return replies

    @property
    def _host(self) -> Host:
        return Host(self.run_id, self.nodes, self.run_config, host.answer)

    @abstractmethod
    def _hire(self) -> Crew | None:
        """The workers; None to do without."""


class LocalGrid(OwnGrid):
    """Virtual nodes on this machine.

    Args:
        workers: processes; 1 runs everything in this one.
        run_config, nodes, run_id, on_reply: as above.
    """

    def __init__(
        self,
        run_config: dict[str, Any],
        nodes: int,
        workers: int = 1,
        run_id: int | None = None,
        on_reply: Callable[[], None] | None = None,
    ):
        super().__init__(run_config, nodes, run_id, on_reply)
        self.workers = workers

    def _hire(self) -> Crew | None:
        return Processes(self.workers, self._host) if self.workers > 1 else None
