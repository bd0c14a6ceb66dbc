"""The code that runs in a worker: it calls the ClientApp for one message after the other and aggregates the replies."""

import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl.engines.engine import Aggregator, add_reply, error_reply

SERVER = 1  # Flower's node id of the server
ClientCall = Callable[[Message, Context], Message]

# Keep freed memory in the process. If gradients go back to the kernel, each training step faults them in again, which
# costs a small convolutional network a fifth of its time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
# Set before a worker starts. One thread per process: measured faster than two on models of this size. One arena: only
# one of the threads of `fl.engines.batching.together` runs at a time.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", **KEEP_MEMORY}


def import_path() -> list[str]:
    """Return the folders that this process imports from, as absolute paths. Workers import from the same folders."""
    return [str(Path(entry).absolute()) for entry in sys.path]  # '' is the current folder


def set_task_identity(run_id: int) -> None:
    """Tell Flower which run this process belongs to. Outside a Flower run, messages cannot be created without it."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, SERVER


def answer(message: Message, context: Context) -> Message:
    """Call this project's ClientApp."""
    from fl.client_app import app

    return app(message, context)


@dataclass
class WorkerServer:
    """Stands in for virtual nodes.

    Args:
        run_id: Identifies the run; clients keep their state under it.
        nodes: Number of virtual nodes.
        run_config: Run-config in the context of the ClientApp.
        answer: Calls the ClientApp.
        node_config: Returns a node's node-config. None: virtual node i has partition i.
        aggregator: Takes the updates out of this round's replies.
        empty: The pickled empty aggregator, from which each part of the aggregate starts.
        shared: Records of this round that several messages contain.
    """

    run_id: int
    nodes: int
    run_config: Mapping[str, Any]
    answer: ClientCall = answer
    node_config: Callable[[int], Mapping[str, Any]] | None = None
    aggregator: Aggregator | None = None
    empty: bytes = b""
    shared: dict[int, ArrayRecord] = field(default_factory=dict)

    def start(self) -> None:
        """Prepare a new worker."""
        import fl.client_app  # noqa: F401  takes seconds: load it before anything waits for a reply

        set_task_identity(self.run_id)

    def work(self, empty: bytes | None, job: bytes, records: Mapping[int, bytes], last: bool) -> bytes:
        """Answer messages. Returns the pickled result of `replies`, and with ``last`` the part of the aggregate.

        Args:
            empty: The pickled empty aggregator if this job is the worker's first of a round, else None.
            job: The pickled messages without the records that several messages contain.
            records: Those records that the job needs and the worker does not have yet.
            last: No job is left after this one.
        """
        if empty is not None:
            self.empty, self.aggregator = empty, pickle.loads(empty)
            self.shared.clear()
        self.shared |= {key: pickle.loads(record) for key, record in records.items()}
        replies, trained_s = self.replies(unpack(job, self.shared))
        return pickle.dumps((replies, trained_s, self._part() if last else None))

    def replies(self, messages: list[Message]) -> tuple[list[Message], float]:
        """Answer messages, training the clients side by side.

        Returns:
            What the aggregator left of the replies, and the seconds that the training took.
        """
        from fl.engines.batching import together

        spent: list[float] = []
        return together([partial(self.reply, message) for message in messages], spent.append), sum(spent)  # type: ignore[return-value]

    def reply(self, message: Message) -> Message:
        """Return a client's reply. An exception becomes an error reply, as under Flower."""
        try:
            reply = self.answer(message, self.context(message))
        except Exception as error:
            return error_reply(message, error)
        return reply if self.aggregator is None else add_reply(self.aggregator, message, reply)

    def context(self, message: Message) -> Context:
        """Return the context that the ClientApp gets with a message. Its state is lost after the message."""
        node = message.metadata.dst_node_id
        config = self.node_config(node) if self.node_config else {"partition-id": node, "num-partitions": self.nodes}
        lend = self.aggregator is not None  # updates are added in this process, so the client need not serialise them
        return Context(self.run_id, node, {**config, "lend": lend}, RecordDict(), dict(self.run_config))

    def part(self) -> bytes:
        """Return the pickled part of the aggregate that this worker holds, and start a new part."""
        return pickle.dumps(self._part())

    def _part(self) -> Any:
        if self.aggregator is None:
            return None
        part, self.aggregator = self.aggregator.part(), pickle.loads(self.empty)
        return part


class _Pickler(pickle.Pickler):
    """Leaves out the records that are sent separately."""

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
    """Pickle the messages of a job. Returns also the keys of the shared records that the job needs.

    Args:
        keys: Key of each shared record by its id().
    """
    file = BytesIO()
    pickler = _Pickler(file, keys)
    pickler.dump(messages)
    return file.getvalue(), pickler.used


def unpack(job: bytes, shared: Mapping[int, ArrayRecord]) -> list[Message]:
    """Return the messages of a job."""
    return _Unpickler(BytesIO(job), shared).load()
