"""Workers that are Ray actors, on this machine or on a cluster.

Records that several clients get go to Ray's object store once a round. An actor lives as long as the grid and keeps
its data set, networks and caches. Every node of a cluster needs the same project, the data sets, and a ``state-root``
that all nodes share, because any actor may stand in for any client.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it Ray gives a FutureWarning
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from fl.engines.grid import WorkerGrid
from fl.engines.worker_pool import EngineFailed, Worker, WorkerDied, WorkerPool
from fl.engines.worker_server import ENVIRONMENT, WorkerServer, import_path

PROJECT = Path(__file__).resolve().parents[2]
ALL_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # an actor requests no GPU and still sees those of its node


class RayGrid(WorkerGrid):
    """Virtual nodes on Ray.

    Args:
        workers: Number of actors. 0 is one for each CPU of the cluster.
        address: Address of a cluster, e.g. '10.0.0.1:6379', or 'auto' for the cluster of this machine. Empty starts a
            cluster on this machine, which ends with the grid.
        run_config, nodes, options: As in `WorkerGrid`.
    """

    def __init__(self, run_config: dict[str, Any], nodes: int, workers: int = 0, address: str = "", **options: Any):
        super().__init__(run_config, nodes, workers, **options)
        self.address = address

    def _new_pool(self) -> WorkerPool:
        return RayPool(self.workers, self.address, self.worker_server)


class RayWorker(Worker):
    """One actor."""

    def __init__(self, server: WorkerServer):
        path = os.pathsep.join([*import_path(), str(PROJECT)])
        environment = {**ENVIRONMENT, **ALL_GPUS, "PYTHONPATH": path}
        options = {"num_cpus": 1, "scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": environment}}
        actor: Any = ray.remote(_Actor).options(**options)
        self.actor = actor.remote(server)
        self.pending = self.actor.call.remote("start")

    def call(self, method: str, *args: Any) -> None:
        self.pending = self.actor.call.remote(method, *args)

    def result(self) -> bytes:
        try:
            return ray.get(self.pending)
        except RayTaskError:  # an error in our code
            raise
        except RayError as error:
            raise WorkerDied((str(error).strip() or type(error).__name__).splitlines()[-1]) from error

    def node(self) -> str:
        """Return the id of the cluster node that runs the actor."""
        return ray.get(self.actor.node.remote())

    def stop(self) -> None:
        ray.kill(self.actor)


class _Actor:
    """What an actor runs."""

    def __init__(self, server: WorkerServer):
        self.server = server

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self.server, method)(*[_resolve(arg) for arg in args])


def _resolve(arg: Any) -> Any:
    """Replace Ray's references to shared records by the records."""
    return {key: ray.get(handle) for key, handle in arg.items()} if isinstance(arg, Mapping) else arg


class RayPool(WorkerPool):
    """Ray actors."""

    def __init__(self, size: int, address: str, server: WorkerServer):
        self.connection = ExitStack()
        if not ray.is_initialized():
            self.connection.enter_context(connected(size, address))
        super().__init__(size or int(ray.cluster_resources().get("CPU", 1)), server)

    def spawn(self) -> Worker:
        return RayWorker(self.server)

    def ready(self, workers: Sequence[Worker], timeout: float) -> Sequence[Worker]:
        pending = {worker.pending: worker for worker in workers if isinstance(worker, RayWorker)}
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
    """Join a cluster, or start one of ``size`` CPUs on this machine. Grids that are created meanwhile share it.

    Raises:
        EngineFailed: No cluster answers at the address.
    """
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not address:
        options |= {"num_cpus": size or None, "include_dashboard": False}
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # if this process is killed, two agents
        # of Ray look for the cluster for so long before they end; by default a minute
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address or "local", **options)
    except Exception as error:  # Ray raises plain exceptions, e.g. if it starts too slowly on a busy machine
        raise EngineFailed(f"no Ray cluster answers at {address or 'this machine'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
