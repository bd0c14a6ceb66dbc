"""Ray: two nodes, each a set of processes of its own on this machine; one is killed in the middle of a round."""

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
from fl.results.files import read_rounds

ROOT = Path(__file__).resolve().parents[3]
HOW = {"strategies": "fedavg,eclm", "cohort": 6}

SCRIPT = """
    import sys
    from pathlib import Path

    from ray.cluster_utils import Cluster

    from fl.config.settings import Settings
    from fl.engines.actors import RayGrid
    from fl.server.run import open_results, run
    from tests.fl.conftest import SMALL

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    settings = Settings.parse({**SMALL, **HOW})
    nodes, lost = {}, []

    def on_reply():
        if not nodes:
            nodes.update((hand, hand.worker.node()) for hand in grid._crew.hands)  # waits until both have started
            assert len(set(nodes.values())) == 2
        there = [hand for hand in grid._crew.hands if hand.summed and nodes.get(hand) == second.node_id]
        if there and not lost:
            lost.extend(there[0].summed)
            cluster.remove_node(second, allow_graceful=False)

    with (
        open_results([settings], Path(sys.argv[1]), False) as results,
        RayGrid(settings.flat(), settings.devices, address=cluster.address, on_reply=on_reply) as grid,
    ):
        run(settings, grid, results)
        left = sum(nodes.get(hand) == second.node_id for hand in grid._crew.hands)
        Path(sys.argv[2]).write_text(f"{len(lost)} {left}")
    cluster.shutdown()
"""


def test_a_run_outlives_a_node_of_its_cluster(play: Callable, tmp_path: Path) -> None:
    """The numbers are those of one process: the dead node's devices are asked again, its part of the sum made anew."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", dedent(SCRIPT).replace("**HOW", f"**{HOW}"), tmp_path / "ray", tmp_path / "said"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lost, left = map(int, (tmp_path / "said").read_text().split())
    assert lost > 0 and left == 0
    play(tmp_path / "one", **HOW)
    cut, whole = (read_rounds(tmp_path / name).drop(columns="wall_s") for name in ("ray", "one"))
    pd.testing.assert_frame_equal(cut, whole, rtol=1e-6)


def test_nobody_at_the_address_is_said_at_once() -> None:
    with pytest.raises(EngineFailed, match=r"no Ray cluster answers at 127\.0\.0\.1:1: "), connected(0, "127.0.0.1:1"):
        pass
