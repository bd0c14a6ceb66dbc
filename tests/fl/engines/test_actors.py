"""Ray: two nodes, each with its own processes on this machine. One is killed in the middle of a round."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pandas as pd
import pytest

from fl.engines.actors import connected
from fl.engines.worker_pool import EngineFailed
from fl.results.reader import read_rounds
from tests.fl.engines.test_processes import USERS_APP

ROOT = Path(__file__).resolve().parents[3]
CHANGES = {"strategies": "fedavg,eclm", "cohort": 6}

SCRIPT = """
    import sys
    from pathlib import Path

    from ray.cluster_utils import Cluster

    from fl.engines.actors import RayGrid
    from fl.server.run import execute, open_results
    from tests.fl.conftest import resolved

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    run = resolved(CHANGES)
    nodes, lost = {}, []

    def on_reply():
        if not nodes:
            nodes.update((slot, slot.worker.node()) for slot in grid.pool.slots)  # waits until both have started
            assert len(set(nodes.values())) == 2
        there = [slot for slot in grid.pool.slots if slot.unmerged and nodes.get(slot) == second.node_id]
        if there and not lost:
            lost.extend(there[0].unmerged)
            cluster.remove_node(second, allow_graceful=False)

    with (
        open_results([run], Path(sys.argv[1]), False) as results,
        RayGrid(run.settings.flat(), run.settings.devices.count, address=cluster.address, on_reply=on_reply) as grid,
    ):
        execute(run, grid, results)
        left = sum(nodes.get(slot) == second.node_id for slot in grid.pool.slots)
        Path(sys.argv[2]).write_text(f"{len(lost)} {left}")
    cluster.shutdown()
"""


def python(script: str, *args: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process: Ray leaves open files behind, which pytest reports."""
    environment, command = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-c", dedent(script), *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_survives_the_loss_of_a_cluster_node(play: Callable, tmp_path: Path) -> None:
    """The numbers are those of one process: messages whose updates are lost with the node are sent again."""
    python(SCRIPT.replace("CHANGES", str(CHANGES)), tmp_path / "ray", tmp_path / "said")
    lost, left = map(int, (tmp_path / "said").read_text().split())
    assert lost > 0 and left == 0
    play(tmp_path / "one", CHANGES)
    cut, whole = (read_rounds(tmp_path / name).drop(columns="wall_s") for name in ("ray", "one"))
    pd.testing.assert_frame_equal(cut, whole, rtol=1e-6)


def test_a_wrong_address_is_reported_at_once() -> None:
    with pytest.raises(EngineFailed, match=r"no Ray cluster answers at 127\.0\.0\.1:1: "), connected(0, "127.0.0.1:1"):
        pass


IMPORTS = """
    import sys

    from flwr.app import Message, RecordDict

    from fl.engines.actors import RayGrid

    sys.path.append(sys.argv[1])
    from users_app import client_app

    with RayGrid({"module": "users_app"}, 1, workers=1, client_app=client_app) as grid:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 0, "query")])
    print(reply.content["app"]["file"])
"""


def test_actors_import_from_the_folders_of_this_process(tmp_path: Path) -> None:
    (tmp_path / "users_app.py").write_text(USERS_APP)
    done = python(IMPORTS, tmp_path)
    assert done.stdout.split() == [str(tmp_path / "users_app.py")]
