"""A real deployment of three SuperNodes on this machine."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.catalog import EXPERIMENTS
from experiments.deploy.flower import ADMITTED, REFUSED
from experiments.deploy.identity import DeployError, node_key
from experiments.deploy.loopback import deployment, node_config
from experiments.hermetic import lives, submit
from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import execute, open_results
from fl.workloads.resolve import resolve
from tests.fl.conftest import rows_of, without_clock, write_device_files

ROOT = Path(__file__).parents[3]


def smoke(changes: dict[str, object] | None = None) -> Settings:
    (settings,) = EXPERIMENTS["loopback"].resolve("smoke", [1], {"strategies": "fedavg", **(changes or {})})
    return settings


@pytest.mark.skipif("DRIFTFED_SLOW" not in os.environ, reason="a minute of two idle cores: set DRIFTFED_SLOW=1")
def test_a_deployment_gives_the_simulations_rows_refuses_a_stranger_and_leaves_nothing(tmp_path: Path) -> None:
    settings, said = smoke(), []
    with deployment(settings, 1, say=said.append) as site:
        group, folder = site.group.leader, site.folder
        node_key(folder, "stranger")
        stranger = site.supernode("stranger", {"partition-id": 1}, memory_gb=4.0, core=min(os.sched_getaffinity(0)))
        own = {"devices.placement": "own", "devices.state-root": str(folder / "devices")}
        own |= {"out": str(tmp_path / "deployed")}
        submit(site.group, ROOT, {**settings.flat(), **own}, on_line=said.append, timeout_s=500)
        with stranger:
            end, words = time.monotonic() + 60, ""
            while "Exit Code:" not in words and time.monotonic() < end:
                stranger.seek(0)
                words = stranger.read().decode()
                time.sleep(0.2)
        assert REFUSED in words and ADMITTED not in words
        assert "No SuperNode found with the given public key" in (folder / "superlink" / "log").read_text()
    assert not lives(group)
    assert not folder.exists()

    run = resolve(settings)
    with open_results([run], tmp_path / "here", False) as results, LocalGrid(settings.flat(), 3) as grid:
        execute(run, grid, results)
    for name in ("rounds.csv", "devices.csv"):
        assert (tmp_path / "deployed" / name).stat().st_size > 200
    assert without_clock(tmp_path / "deployed") == without_clock(tmp_path / "here")
    deployed, drawn = ((tmp_path / out / "devices.csv").read_text() for out in ("deployed", "here"))
    assert deployed == drawn
    assert "registering 3 keys" in said[0]


@pytest.mark.skipif("DRIFTFED_SLOW" not in os.environ, reason="minutes of two idle cores: set DRIFTFED_SLOW=1")
def test_supernodes_with_one_file_each_give_the_rows_of_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_device_files(tmp_path, 2) | {"eclm.subtasks": "class"}
    settings, said = smoke({"devices.count": 2, "strategies": "fedavg,eclm", **files}), []
    monkeypatch.setattr(
        "experiments.deploy.loopback.node_config",
        lambda *of: node_config(*of) | {"data": str(tmp_path / f"device-{of[-1]}")},
    )
    with deployment(settings, 1, say=said.append) as site:
        own = {"devices.placement": "own", "devices.state-root": str(site.folder / "devices")}
        own |= {"out": str(tmp_path / "deployed"), "data.root": str(tmp_path / "server"), "server.at-once": 2}
        submit(site.group, ROOT, {**settings.flat(), **own}, on_line=said.append, timeout_s=900, add_keys=True)

    run = resolve(settings)
    with open_results([run], tmp_path / "here", False) as results, LocalGrid(settings.flat(), 2) as grid:
        execute(run, grid, results)
    pd.testing.assert_frame_equal(rows_of(tmp_path / "deployed"), rows_of(tmp_path / "here"))
    assert (rows_of(tmp_path / "deployed")["failures"] == 0).all()
    deployed, drawn = ((tmp_path / out / "devices.csv").read_text() for out in ("deployed", "here"))
    assert deployed == drawn


def test_more_nodes_than_memory_holds_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.deploy.loopback.free_memory", lambda: 1.7e9)
    monkeypatch.setattr("experiments.deploy.loopback.at_once", lambda: 2)  # 3 x 0.2 + 2 x 0.6
    words = r"^3 SuperNodes take 1\.8 GB of memory and 1\.7 GB are free: .*devices.count=n"
    with pytest.raises(DeployError, match=words), deployment(smoke(), 1, say=pytest.fail):
        pass


def test_every_board_of_the_testbed_is_given_what_the_simulation_draws() -> None:
    settings = smoke({"devices.count": 20, "cohort": 10})
    nodes = [node_config(settings, 1, device) for device in range(20)]
    assert [node["partition-id"] for node in nodes] == list(range(20))
    assert [node["device-class"] for node in nodes].count("Jetson Nano") == 10
    # compute: Pi and Nano rank at a quarter and three quarters of 0.2 ... 0.6; all have 4 GB, half way
    assert {(node["mac-per-s"], round(float(node["limit-compute"]), 9)) for node in nodes} == {(2e9, 0.3), (3e10, 0.5)}
    assert {round(float(node["limit-memory"]), 9) for node in nodes} == {0.4}
