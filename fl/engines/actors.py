"""Workers that are Ray actors, on this machine or on a cluster. A model that many devices are sent is put once a round.

An actor lives as long as the grid: data set, networks and caches stay with it. Every node of a cluster needs the same
project, the data sets, and a ``state-root`` that all of them share, for any actor may stand in for any device.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its absence is a FutureWarning of Ray
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from fl.engines.grid import OwnGrid
from fl.engines.worker_pool import Crew, Died, EngineFailed, Worker
from fl.engines.worker_server import ENVIRONMENT, Host

PROJECT = Path(__file__).resolve().parents[2]
ALL_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # an actor asks for none and yet sees what its node has


class RayGrid(OwnGrid):
    """Virtual nodes on Ray.

    Args:
        workers: actors; 0 is one per CPU of the cluster.
        address: of a cluster, e.g. '10.0.0.1:6379', or 'auto' for the one that this machine belongs to; empty starts
            one on this machine, which ends with the grid.
        run_config, nodes, run_id, on_reply: as in `fl.engines.grid.OwnGrid`.
    """

    def __init__(
        self,
        run_config: dict[str, Any],
        nodes: int,
        workers: int = 0,
        address: str = "",
        run_id: int | None = None,
        on_reply: Callable[[], None] | None = None,
    ):
        super().__init__(run_config, nodes, run_id, on_reply)
        self.workers, self.address = workers, address

    def _hire(self) -> Crew:
        return Actors(self.workers, self.address, self._host)


class Actor(Worker):
    """One actor; what it was asked for last is a reference."""

    def __init__(self, host: Host):
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        environment = {**ENVIRONMENT, **ALL_GPUS, "PYTHONPATH": path}
        how = {"num_cpus": 1, "scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": environment}}
        stage: Any = ray.remote(_Stage).options(**how)
        self.actor = stage.remote(host)
        self.pending = self.actor.do.remote("start")

    def ask(self, verb: str, *args: Any) -> None:
        self.pending = self.actor.do.remote(verb, *args)

    def result(self) -> bytes:
        try:
            return ray.get(self.pending)
        except RayTaskError:  # an error of ours
            raise
        except RayError as error:
            raise Died((str(error).strip() or type(error).__name__).splitlines()[-1]) from error

    def node(self) -> str:
        """The node of the cluster that it runs on."""
        return ray.get(self.actor.node.remote())

    def stop(self) -> None:
        ray.kill(self.actor)


class _Stage:
    """What an actor runs."""

    def __init__(self, host: Host):
        self.host = host

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def do(self, verb: str, *args: Any) -> Any:
        return getattr(self.host, verb)(*[_got(arg) for arg in args])


def _got(arg: Any) -> Any:
    return {key: ray.get(handle) for key, handle in arg.items()} if isinstance(arg, Mapping) else arg


class Actors(Crew):
    """Ray actors; ``host`` is what each of them is."""

    def __init__(self, size: int, address: str, host: Host):
        self.connection = ExitStack()
        if not ray.is_initialized():
            self.connection.enter_context(connected(size, address))
        super().__init__(size or int(ray.cluster_resources().get("CPU", 1)))
        self.host = host

    def hire(self) -> Worker:
        return Actor(self.host)

    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        pending = {worker.pending: worker for worker in workers if isinstance(worker, Actor)}
        done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        if not done:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=timeout)
        return [pending[reference] for reference in done]

    def put(self, record: bytes) -> Any:
        return ray.put(record)

    def close(self) -> None:
        super().close()
        self.connection.close()


@contextmanager
def connected(size: int, address: str) -> Iterator[None]:
    """Join a cluster, or start one here of ``size`` CPUs; grids made meanwhile share it.

    Raises:
        EngineFailed: nobody answers at the address.
    """
    how: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not address:
        how |= {"num_cpus": size or None, "include_dashboard": False}
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address or "local", **how)
    except Exception as error:  # Ray raises bare ones, e.g. where a busy machine lets its start take too long
        raise EngineFailed(f"no Ray cluster answers at {address or 'this machine'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
