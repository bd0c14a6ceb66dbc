"""What a worker does: it answers for one device after the other, and adds up their answers where that is asked."""

import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, Protocol

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

SERVER = 1  # the node id of whoever asks
FAILED, DIED = 2, 0  # Flower's error codes for an exception in the ClientApp and for a dead process

# Memory that is freed stays with the process: gradients given back to the kernel are faulted in again at every step,
# which costs a small convolutional network a fifth of its time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
# Set before a worker starts. One thread per process: measured faster than two on models of this size. One arena: of the
# threads of `fl.engines.batching.together` one runs at a time.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", **KEEP_MEMORY}


class Fold(Protocol):
    """A sum over answers that workers make a part of each: any grouping and any order give the same."""

    def take(self, message: Message, reply: Message) -> Message:
        """Add an answer. Returns what is left of it to be sent home."""

    def part(self) -> Any:
        """What was added so far, to be sent home."""

    def merge(self, part: Any) -> None:
        """Add what another worker added up."""


def identify(run_id: int) -> None:
    """Outside a Flower run nobody says who this process is, and messages cannot be made without it."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, SERVER


def answer(message: Message, context: Context) -> Message:
    """The device's answer to one message."""
    from fl.client_app import app

    return app(message, context)


@dataclass
class Host:
    """Stands in for virtual nodes.

    Args:
        run_id: tells apart what devices keep from run to run.
        nodes: how many there are; run_config: what the ClientApp finds in its context.
        answer: calls the ClientApp.
        fold: takes the answers of this round; blank: makes a new one when its part was sent home.
        shared: records of this round that several messages hold.
    """

    run_id: int
    nodes: int
    run_config: Mapping[str, Any]
    answer: Callable[[Message, Context], Message] = answer
    fold: Fold | None = None
    blank: bytes = b""
    shared: dict[int, ArrayRecord] = field(default_factory=dict)

    def start(self) -> None:
        """Once per worker, before anything else."""
        import fl.client_app  # noqa: F401  takes seconds: not while others wait for an answer

        identify(self.run_id)

    def work(self, blank: bytes | None, job: bytes, fresh: Mapping[int, bytes], last: bool) -> bytes:
        """Answer messages. Returns the pickle of what `replies` gives, and of the part of the sum where it was asked.

        Args:
            blank: begins a round; the pickle of its empty fold.
            job: the pickled messages, without the records that several messages hold.
            fresh: those of these records that are needed and were not sent before.
            last: nothing is left to be done after this.
        """
        if blank is not None:
            self.blank, self.fold = blank, pickle.loads(blank)
            self.shared.clear()
        self.shared |= {key: pickle.loads(record) for key, record in fresh.items()}
        replies, trained_s = self.replies(unpack(job, self.shared))
        return pickle.dumps((replies, trained_s, self._part() if last else None))

    def replies(self, messages: list[Message]) -> tuple[list[Message], float]:
        """The answers of devices that are trained side by side, without what the fold takes of them.

        And the seconds that their training took.
        """
        from fl.engines.batching import together

        spent: list[float] = []
        return together([partial(self.reply, message) for message in messages], spent.append), sum(spent)  # type: ignore[return-value]

    def reply(self, message: Message) -> Message:
        """A device's answer; an exception becomes an error reply, as under Flower.

        Raises:
            SystemExit: the GPU that this process computes on fails it; another process may do better.
        """
        try:
            reply = self.answer(message, self.context(message))
            return reply if self.fold is None else self.fold.take(message, reply)
        except Exception as error:
            from fl.engines.accelerator import failed

            if failed(error):
                raise SystemExit(f"error: of the GPU: {error}; its memory is there for fewer workers, too") from error
            return Message(Error(FAILED, traceback.format_exc(limit=-3)), reply_to=message)

    def context(self, message: Message) -> Context:
        """What the ClientApp is told beside the message; its state does not outlive it."""
        node = message.metadata.dst_node_id
        config: dict[str, bool | float | int | str] = {
            "partition-id": node,
            "num-partitions": self.nodes,
            "lend": self.fold is not None,  # updates are added up here: they need no bytes
        }
        return Context(self.run_id, node, config, RecordDict(), dict(self.run_config))

    def part(self) -> bytes:
        """The pickle of the part of the sum that was made here, which begins anew."""
        return pickle.dumps(self._part())

    def _part(self) -> Any:
        if self.fold is None:
            return None
        part, self.fold = self.fold.part(), pickle.loads(self.blank)
        return part


class _Pickler(pickle.Pickler):
    """Leaves out the records that go another way."""

    def __init__(self, file: BytesIO, keys: Mapping[int, int]):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.keys = keys
        self.used: set[int] = set()

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not ArrayRecord or id(obj) not in self.keys:
            return None
        self.used.add(self.keys[id(obj)])
        return self.keys[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BytesIO, shared: Mapping[int, ArrayRecord]):
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, pid: int) -> ArrayRecord:
        return self.shared[pid]


def pack(messages: list[Message], keys: Mapping[int, int]) -> tuple[bytes, set[int]]:
    """A job, and which of the shared records it needs; ``keys``: of those records, by their id()."""
    file = BytesIO()
    pickler = _Pickler(file, keys)
    pickler.dump(messages)
    return file.getvalue(), pickler.used


def unpack(job: bytes, shared: Mapping[int, ArrayRecord]) -> list[Message]:
    """The messages of a job."""
    return _Unpickler(BytesIO(job), shared).load()
