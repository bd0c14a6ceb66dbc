"""Worker processes: where they come from, and one that is killed from outside."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.engines.processes import FORKS, Process, Processes
from fl.engines.worker_pool import Hand
from fl.engines.worker_server import Host
from fl.results.files import read_rounds
from fl.server.run import open_results, run
from tests.fl.conftest import SMALL

HOW = {"strategies": "fedavg", "cohort": 6, "rounds": 2}


def test_a_worker_killed_with_a_sum_and_a_job_in_its_hands_changes_nothing(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.engines.worker_pool.QUICK_S", 0.0)  # several jobs for each worker, however fast it is
    settings = Settings.parse({**SMALL, **HOW})
    killed: list[Hand] = []
    asks = Hand.ask

    def ask(hand: Hand, verb: str, *args: object) -> None:
        asks(hand, verb, *args)
        if verb == "work" and hand.summed and not killed:  # six jobs, two workers: one gets a second
            killed.append(hand)
            hand.worker.process.kill()

    monkeypatch.setattr(Hand, "ask", ask)
    with (
        open_results([settings], tmp_path / "two", False) as results,
        LocalGrid(settings.flat(), settings.devices, workers=2) as grid,
    ):
        run(settings, grid, results)
        assert len(killed) == 1 and len(grid._crew.hands) == 2 and killed[0] not in grid._crew.hands
    play(tmp_path / "one", **HOW)
    cut, whole = (read_rounds(tmp_path / name).drop(columns="wall_s") for name in ("two", "one"))
    pd.testing.assert_frame_equal(cut, whole, rtol=1e-6)


@pytest.mark.skipif(not FORKS, reason="workers are forked on Linux alone")
def test_workers_share_what_one_process_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are its children, and torch's code is mapped in it. Their environment is that of now."""
    workers = []
    try:
        for word in ("first", "second"):
            monkeypatch.setenv("SAID", word)
            workers.append(worker := Process(Host(1, 2, {}, answer=os.getenvb)))
            worker.result()
            worker.ask("answer", b"SAID")
            assert worker.result() == word.encode()
        about = [Path(f"/proc/{worker.process.pid}/stat").read_text() for worker in workers]
        (parent,) = {line.rsplit(")")[1].split()[1] for line in about}
        assert "libtorch_cpu" in Path(f"/proc/{parent}/maps").read_text()
    finally:
        for worker in workers:
            worker.stop()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only some systems let a process choose its cores")
def test_a_worker_has_a_core_to_itself_where_there_is_one_for_each() -> None:
    """One that takes the place of a dead one has the dead one's. More workers than cores go where there is room."""

    def taken(crew: Processes) -> list[set[int]]:
        for hand in crew.hands:
            hand.worker.result()  # it has started
        return [os.sched_getaffinity(hand.worker.process.pid) for hand in crew.hands]

    cores, host = os.sched_getaffinity(0), Host(1, 2, {}, answer=os.getenvb)
    each, more = Processes(len(cores), host), Processes(len(cores) + 1, host)
    try:
        each.start()
        assert sorted(map(sorted, taken(each))) == [[core] for core in sorted(cores)]
        dead = each.hands.pop(0)
        dead.worker.stop()
        each.start()
        assert each.hands[-1].worker.core == dead.worker.core
        more.start()
        assert taken(more) == [cores] * more.size
    finally:
        each.close()
        more.close()


def test_the_server_app_is_there_before_torch_is() -> None:
    """So that workers begin to load it when the ServerApp does."""
    subprocess.run([sys.executable, "-c", "import sys, fl.server_app; assert 'torch' not in sys.modules"], check=True)
