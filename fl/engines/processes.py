"""Workers that are processes of this machine, each connected by a pipe.

On Linux, workers are forked from a process that has loaded what all of them need and does nothing else. Loading torch
then takes its seconds only once, the workers share its memory, and a dead worker is replaced at once.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from fl.devices.load import cores
from fl.engines.worker_pool import Worker, WorkerDied, WorkerPool
from fl.engines.worker_server import ENVIRONMENT, WorkerServer, import_path

FORKS = sys.platform == "linux"  # elsewhere libraries that torch uses do not survive a fork


def warm() -> None:
    """Start loading what workers need, in another process. Returns at once."""
    if not FORKS:
        return
    multiprocessing.set_forkserver_preload(["fl.client_app"])
    # The allocator reads its settings when a process starts. The process must load the same files as this one.
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}
    with _environment(environment), _children_without_interrupts():
        forkserver.ensure_running()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change environment variables for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _children_without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, from their first moment on: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else multiprocessing starts it below, and lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerProcess(Worker):
    """One worker process, on any core or bound to one."""

    def __init__(self, server: WorkerServer, core: int | None = None):
        self.core = core
        warm()
        context = multiprocessing.get_context("forkserver") if FORKS else multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        args = theirs, pickle.dumps(server), core, {**os.environ, **ENVIRONMENT}, import_path()
        self.process = context.Process(target=_serve, args=args, daemon=True)
        with _children_without_interrupts():
            self.process.start()
        theirs.close()  # an open copy would hide the end of the process: the pipe would stay open

    def call(self, method: str, *args: Any) -> None:
        with suppress(OSError):  # the process is dead: `result` finds the closed pipe
            self.pipe.send_bytes(pickle.dumps((method, args), pickle.HIGHEST_PROTOCOL))

    def result(self) -> bytes:
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join(5)
            raise WorkerDied(f"exit status {self.process.exitcode}") from None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class ProcessPool(WorkerPool):
    """Worker processes."""

    def spawn(self) -> Worker:
        return WorkerProcess(self.server, self._core())

    def _core(self) -> int | None:
        """Return a core that no other worker has if there are as many cores as workers, else None.

        At the start of a short round all workers wake up at once, and Linux often puts two of them on one core.
        """
        usable = cores()
        if len(usable) != self.size:
            return None
        taken = {slot.worker.core for slot in self.slots if isinstance(slot.worker, WorkerProcess)}
        return min(usable - taken, default=None)

    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        pipes = {worker.pipe: worker for worker in workers if isinstance(worker, WorkerProcess)}
        return [pipes[pipe] for pipe in wait(pipes, timeout)]  # type: ignore[index]


def _serve(
    pipe: Connection, pickled: bytes, core: int | None, environment: Mapping[str, str], path: Sequence[str]
) -> None:
    os.environ.clear()  # the environment is that of the process from which this one is forked
    os.environ.update(environment)
    sys.path[:] = path
    server: WorkerServer = pickle.loads(pickled)  # not earlier: it may import the user's modules from `path`
    if core is not None:
        with suppress(OSError, AttributeError):  # not allowed here, or unknown to this system
            os.sched_setaffinity(0, {core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_follow_parent, daemon=True).start()
    server.start()
    with suppress(BrokenPipeError):  # the parent has ended
        pipe.send_bytes(b"")
        while (request := _request(pipe)) is not None:
            method, args = pickle.loads(request)
            pipe.send_bytes(getattr(server, method)(*args))


def _request(pipe: Connection) -> bytes | None:
    """Return the next request, None if the parent has closed the pipe."""
    try:
        return pipe.recv_bytes()
    except EOFError:
        return None


def _follow_parent() -> None:
    """End this worker when its parent ends for any reason, also in the middle of a job."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
