"""Workers that are processes of this machine, each at the other end of a pipe.

On Linux they are forked from a process that has loaded what all of them need and does nothing else: the seconds that
torch takes to load are spent once, its memory is shared, and who takes the place of a dead worker is there at once.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest.mock import patch

from fl.engines.worker_pool import Crew, Died, Worker
from fl.engines.worker_server import ENVIRONMENT, Host

FORKS = sys.platform == "linux"  # elsewhere what torch stands on may not outlive a fork


def cores() -> set[int]:
    """Those that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def warm() -> None:
    """Begin to load what workers need, beside whatever this process does. Returns at once."""
    if FORKS:
        multiprocessing.set_forkserver_preload(["fl.client_app"])
        with patch.dict(os.environ, ENVIRONMENT):  # the allocator reads it when a process starts
            forkserver.ensure_running()


class Process(Worker):
    """One worker process, on any core or on one alone."""

    def __init__(self, host: Host, core: int | None = None):
        self.core = core
        warm()
        context = multiprocessing.get_context("forkserver") if FORKS else multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        with patch.dict(os.environ, ENVIRONMENT):
            self.process = context.Process(target=_serve, args=(theirs, host, core, dict(os.environ)), daemon=True)
            self.process.start()
        theirs.close()  # or the end of the process would not be the end of the pipe

    def ask(self, verb: str, *args: Any) -> None:
        with suppress(OSError):  # dead: its end of the pipe is closed, which `result` finds
            self.pipe.send_bytes(pickle.dumps((verb, args), pickle.HIGHEST_PROTOCOL))

    def result(self) -> bytes:
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join(5)
            raise Died(f"exit status {self.process.exitcode}") from None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Processes(Crew):
    """Worker processes; ``host`` is what each of them is."""

    def __init__(self, size: int, host: Host):
        super().__init__(size)
        self.host = host

    def hire(self) -> Worker:
        return Process(self.host, self._core())

    def _core(self) -> int | None:
        """One that no other worker has, where there are as many as workers; else None.

        Short rounds begin with all workers woken at once, and Linux often puts two of them on one core then.
        """
        usable = cores()
        if len(usable) != self.size:
            return None
        taken = {hand.worker.core for hand in self.hands if isinstance(hand.worker, Process)}
        return min(usable - taken, default=None)

    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        pipes = {worker.pipe: worker for worker in workers if isinstance(worker, Process)}
        return [pipes[pipe] for pipe in wait(pipes, timeout)]  # type: ignore[index]


def _serve(pipe: Connection, host: Host, core: int | None, environment: Mapping[str, str]) -> None:
    os.environ.clear()  # it is that of the process which this one is forked from
    os.environ.update(environment)
    if core is not None:
        with suppress(OSError, AttributeError):  # not allowed here, or no such thing
            os.sched_setaffinity(0, {core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_follow_parent, daemon=True).start()
    host.start()
    pipe.send_bytes(b"")
    while (request := _request(pipe)) is not None:
        verb, args = pickle.loads(request)
        pipe.send_bytes(getattr(host, verb)(*args))


def _request(pipe: Connection) -> bytes | None:
    """The next one, None where nobody is left to ask."""
    try:
        return pipe.recv_bytes()
    except EOFError:
        return None


def _follow_parent() -> None:
    """A worker ends with its parent, however that dies, also in the middle of its work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
