"""Worker processes: what they are forked from, what they import, and one that is killed from outside."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Message, RecordDict

from fl.engines.grid import LocalGrid
from fl.engines.processes import FORKS, ProcessPool, WorkerProcess
from fl.engines.worker_pool import Slot
from fl.engines.worker_server import WorkerServer
from fl.results.reader import read_rounds
from fl.server.run import execute, open_results
from tests.fl.conftest import resolved

CHANGES = {"strategies": "fedavg", "cohort": 6, "rounds": 2}
USERS_APP = """
from flwr.app import ConfigRecord, Message, RecordDict

def client_app(message, context):
    module = __import__(context.run_config["module"])
    return Message(RecordDict({"app": ConfigRecord({"file": module.__file__})}), reply_to=message)
"""


def test_a_worker_killed_with_updates_and_a_job_changes_nothing(play: Callable, tmp_path: Path) -> None:
    run = resolved(CHANGES)
    killed: list[Slot] = []

    def on_reply() -> None:
        assert grid.pool is not None
        unmerged = [slot for slot in grid.pool.slots if slot.unmerged]
        if unmerged and not killed:  # it has answered its first job, and is sent another one before its death is known
            killed.append(unmerged[0])
            unmerged[0].worker.process.kill()

    with (
        open_results([run], tmp_path / "two", False) as results,
        LocalGrid(run.settings.flat(), run.settings.devices.count, workers=2, on_reply=on_reply) as grid,
    ):
        grid.start()
        grid.pool.quick_s = 0.0  # six jobs, however fast the workers are
        execute(run, grid, results)
        assert len(killed) == 1 and len(grid.pool.slots) == 2 and killed[0] not in grid.pool.slots
    play(tmp_path / "one", CHANGES)
    cut, whole = (read_rounds(tmp_path / name).drop(columns="wall_s") for name in ("two", "one"))
    pd.testing.assert_frame_equal(cut, whole, rtol=1e-6)


@pytest.mark.skipif(not FORKS, reason="workers are forked on Linux alone")
def test_workers_share_what_one_process_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are its children, and torch's code is mapped in it. Their environment is the present one."""
    workers = []
    try:
        for word in ("first", "second"):
            monkeypatch.setenv("SAID", word)
            workers.append(worker := WorkerProcess(WorkerServer(1, 2, {}, answer=os.getenvb)))
            assert os.environ.get("MALLOC_ARENA_MAX") is None
            worker.result()
            worker.call("answer", b"SAID")
            assert worker.result() == word.encode()
        about = [Path(f"/proc/{worker.process.pid}/stat").read_text() for worker in workers]
        (parent,) = {line.rsplit(")")[1].split()[1] for line in about}
        assert "libtorch_cpu" in Path(f"/proc/{parent}/maps").read_text()
    finally:
        for worker in workers:
            worker.stop()


@pytest.mark.parametrize("in_current_folder", [False, True])
def test_workers_import_from_the_folders_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_current_folder: bool
) -> None:
    name = f"users_app_{in_current_folder}"
    (tmp_path / f"{name}.py").write_text(USERS_APP)
    monkeypatch.setattr(sys, "path", [*sys.path, "" if in_current_folder else str(tmp_path)])
    if in_current_folder:
        monkeypatch.chdir(tmp_path)
    app = importlib.import_module(name).client_app
    with LocalGrid({"module": name}, 2, workers=2, client_app=app) as grid:
        replies = list(grid.send_and_receive([Message(RecordDict(), node, "query") for node in range(2)]))
    assert [reply.content["app"]["file"] for reply in replies] == [str(tmp_path / f"{name}.py")] * 2


@pytest.mark.skipif(not FORKS, reason="workers are forked on Linux alone")
def test_the_process_that_workers_are_forked_from_imports_what_this_one_imports(tmp_path: Path) -> None:
    """Even if the current folder has another `fl`: that may be older than the app that runs."""
    (tmp_path / "fl").mkdir()
    (tmp_path / "fl" / "__init__.py").write_text("raise SystemExit")
    code = f"""
import sys
sys.path[0] = {str(Path(__file__).resolve().parents[3])!r}
from pathlib import Path
from multiprocessing import forkserver
from fl.engines.processes import WorkerProcess
from fl.engines.worker_server import WorkerServer
if __name__ == "__main__":
    worker = WorkerProcess(WorkerServer(1, 2, {{}}))
    worker.result()
    assert "libtorch_cpu" in Path(f"/proc/{{forkserver._forkserver._forkserver_pid}}/maps").read_text()
    worker.stop()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only some systems let a process choose its cores")
def test_each_worker_has_its_own_core_if_there_are_enough() -> None:
    """A new worker gets the core of the dead one that it replaces. More workers than cores run on any core."""

    def taken(pool: ProcessPool) -> list[set[int]]:
        for slot in pool.slots:
            slot.worker.result()  # it has started
        return [os.sched_getaffinity(slot.worker.process.pid) for slot in pool.slots]

    cores, server = os.sched_getaffinity(0), WorkerServer(1, 2, {}, answer=os.getenvb)
    each, more = ProcessPool(len(cores), server), ProcessPool(len(cores) + 1, server)
    try:
        each.start()
        assert sorted(map(sorted, taken(each))) == [[core] for core in sorted(cores)]
        dead = each.slots.pop(0)
        dead.worker.stop()
        each.start()
        assert each.slots[-1].worker.core == dead.worker.core
        more.start()
        assert taken(more) == [cores] * more.size
    finally:
        each.close()
        more.close()


def test_the_server_app_loads_before_torch() -> None:
    """Then workers start loading torch when the ServerApp does."""
    code = "import sys, experiments.server_app; assert not {'torch', 'pandas'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
