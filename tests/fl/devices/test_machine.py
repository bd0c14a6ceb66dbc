"""A device that is a machine: what it says and measures of itself, and that the run is the simulation's."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context, Message, RecordDict

from fl.config.settings import Settings, SettingsError
from fl.devices import machine as module
from fl.devices.hardware import Hardware, Table, shares
from fl.devices.machine import Node, free_compute, free_memory, timed
from fl.engines.grid import LocalGrid
from fl.engines.worker_server import WorkerServer
from fl.messages import records as wire
from fl.server.fleet import Fleet
from fl.server.run import open_results, run
from fl.workloads.world import world
from models.costs import Cost
from partitions.datasets import _load as load_folder
from tests.fl.conftest import SMALL, without_clock

WHOLE = Cost(params=250, bytes=1000, macs=500, memory=4000)


@dataclass
class Machine(WorkerServer):
    """A host of nodes that each have a node-config of their own."""

    config: Callable[[int], dict[str, Any]] | None = None

    def context(self, message: Message) -> Context:
        node = message.metadata.dst_node_id
        assert self.config is not None
        return Context(self.run_id, node, self.config(node), RecordDict(), dict(self.run_config))


class Machines(LocalGrid):
    """Virtual nodes, each with a node-config of its own."""

    def __init__(self, settings: Settings, config: Callable[[int], dict[str, Any]]):
        super().__init__(settings.flat(), settings.devices)
        self.config = config

    @property
    def _host(self) -> WorkerServer:
        return Machine(self.run_id, self.nodes, self.run_config, config=self.config)


def as_drawn(settings: Settings) -> Callable[[int], dict[str, Any]]:
    """Node-configs that say what the simulation draws; nodes are numbered the other way round than devices."""

    def config(node: int) -> dict[str, Any]:
        device, table = settings.devices - 1 - node, Table.of(settings.hardware)
        is_ = table.draw(1, device)
        now = shares(table, is_, 1, device, 0, settings.limit_low, settings.limit_high, 0.0)
        return {
            "partition-id": device,
            "device-class": is_.name,
            "ram-gb": is_.ram_gb,
            "mac-per-s": is_.mac_per_s,
            "link-mbit-s": is_.link_mbit_s,
            "limit-link": now.link,
            "limit-compute": now.compute,
            "limit-memory": now.memory,
        }

    return config


def play(out: Path, grid: LocalGrid, settings: Settings) -> list[str]:
    with open_results([settings], out, False) as results, grid:
        run(settings, grid, results)
    return without_clock(out)


def test_machines_of_known_limits_give_the_simulations_rows(tmp_path) -> None:
    common = {**SMALL, "strategies": "la,eclm", "hardware": "testbed", "background-load": 0.0, "candidates": 1.5}
    kept = {"placement": "own", "state-root": str(tmp_path / "devices")}
    simulated, own = Settings.parse(common), Settings.parse({**common, **kept})
    told = play(tmp_path / "own", Machines(own, as_drawn(own)), own)
    assert told == play(tmp_path / "simulated", LocalGrid(simulated.flat(), simulated.devices), simulated)
    assert (tmp_path / "own" / "devices.csv").read_bytes() == (tmp_path / "simulated" / "devices.csv").read_bytes()
    assert list((tmp_path / "devices").iterdir()) == []


def test_machines_that_do_not_hear_that_a_run_is_over_keep_their_files_and_hold_nobody_up(tmp_path) -> None:
    settings = Settings.parse(
        {**SMALL, "strategies": "la", "rounds": 1, "placement": "own", "state-root": str(tmp_path / "devices")}
    )

    class Deaf(Machines):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            over = [message for message in messages if message.content[wire.TASK].get("what") == "goodbye"]
            return [] if over else super().send_and_receive(messages, timeout=timeout)

    rows = play(tmp_path / "out", Deaf(settings, as_drawn(settings)), settings)
    assert len(rows) == 2 and len(list((tmp_path / "devices").rglob("*.safetensors"))) == 6
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_testbed_has_as_many_of_each_board() -> None:
    names = [Table.of("testbed").draw(seed, device).name for seed in (1, 2) for device in range(20)]
    assert names == ["Jetson Nano", "Raspberry Pi 4B"] * 20
    drawn = {device: Table.of("boards").draw(1, device).link_mbit_s for device in range(20)}
    assert {device: Table.of("testbed").draw(1, device).link_mbit_s for device in range(20)} == drawn


def test_what_a_machine_spares_worked_by_hand(monkeypatch) -> None:
    monkeypatch.setattr(module, "timed", lambda settings: (3000.0, WHOLE))
    monkeypatch.setattr(module, "free_compute", lambda: 0.5)
    monkeypatch.setattr(module, "free_memory", lambda: 6000.0)
    settings = Settings.parse(
        {"local-epochs": 2, "samples-max": 10, "samples-min": 1, "train-budget-s": 4, "link-budget-s": 2}
    )
    node = Node.parse({"link-mbit-s": 0.002})
    # link: 0.002e6 / 8 bytes a second for 2 s are 500 of 1000; compute: 3000 * 0.5 MAC/s for 4 s are 6000, over 3 * 2 *
    # 10 passes 100 of 500; memory: half of 6000 is 3000 of 4000
    now = node.spare(settings)
    assert (now.link, now.compute, now.memory) == pytest.approx((0.5, 0.2, 0.75))
    now = node.model_copy(update={"mac_per_s": 6000.0, "limit_compute": 0.3, "limit_memory": 0.8}).spare(settings)
    assert (now.link, now.compute, now.memory) == pytest.approx((0.5, 0.3, 0.75))


def test_background_load_takes_compute(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for load, share in ((0.0, 1.0), (3.0, 1.0), (7.0, 0.5), (39.0, 0.1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 99.0, 99.0))
        assert free_compute() == pytest.approx(share)


def test_free_memory_is_the_least_of_machine_container_and_process(tmp_path, monkeypatch) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:   5000 kB\n")
    write("proc/self/status", "Name:\tpython\nVmData:\t 1000 kB\n")
    monkeypatch.setattr(module.resource, "getrlimit", lambda what: (-1, -1))
    assert free_memory(tmp_path) == 5000 * 1024
    write("proc/self/cgroup", "0::/system.slice/driftfed.service\n")
    group = "sys/fs/cgroup/system.slice/driftfed.service"
    write(f"{group}/memory.current", "3000000\n")
    write(f"{group}/memory.stat", "anon 5\ninactive_file 500000\nslab 7\n")
    write(f"{group}/memory.max", "max\n")
    assert free_memory(tmp_path) == 5000 * 1024
    write(f"{group}/memory.max", "4000000\n")
    assert free_memory(tmp_path) == 1_500_000
    monkeypatch.setattr(module.resource, "getrlimit", lambda what: (2_024_000, 2_024_000))
    assert free_memory(tmp_path) == 1_000_000
    monkeypatch.undo()
    assert free_memory() > 1e6  # on the machine that runs this


def test_compute_is_timed_on_the_real_model_in_cpu_time(monkeypatch) -> None:
    def fit(body, x, y, how, epochs, generator) -> None:
        time.sleep(0.02)  # what others do
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "TIMED_S", 0.1)
    settings = Settings.parse({"batch-size": 4})
    # an epoch of 8 * 4 samples, 3 * 500 MACs each, in 10 ms
    assert module._time(settings, WHOLE) == pytest.approx(8 * 4 * 3 * 500 / 0.01, rel=0.15)


def test_what_was_timed_is_kept_for_the_next_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "TIMED_S", 0.05)
    settings = Settings.parse({"width": 24})
    timed.cache_clear()
    rate, whole = timed(settings)
    assert rate > 1e6 and whole.macs > 1000
    timed.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_time", None)
        assert timed(settings) == (rate, whole)
    (kept,) = (tmp_path / "driftfed" / "machine").iterdir()
    kept.write_text("torn")
    timed.cache_clear()
    assert timed(settings)[1] == whole


def test_a_node_config_that_is_wrong_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="link-mbit-s = 'fast': input should be a valid number.*deploy supernode"):
        Node.parse({"link-mbit-s": "fast"})
    with pytest.raises(SettingsError, match="limit-memory = 0"):
        Node.parse({"limit-memory": 0})
    with pytest.raises(SettingsError, match="lacks link-mbit-s"):
        Node.parse({"partition-id": 3}).hardware(Settings())
    with pytest.raises(SettingsError, match="lacks mac-per-s"):
        Node.parse({"link-mbit-s": 3}).hardware(Settings.parse({"workload": "vq", "dataset": "questions"}))
    assert Node.parse({"num-partitions": 4, "partition-id": 3}).partition_id == 3


def test_missing_machines_are_named() -> None:
    settings = Settings.parse({**SMALL, "placement": "own"})
    known = as_drawn(settings)

    def config(node: int) -> dict[str, Any]:  # devices 5 ... 0: one does not know its link, one is not there
        own = known(node)
        return {**own, "partition-id": 7} if node == 1 else {**own, "link-mbit-s": 0} if node == 2 else own

    with Machines(settings, config) as grid, pytest.raises(SettingsError, match="partition-id 3, 4: .* devices = 3,"):
        Fleet.find(grid, settings, wait_s=0.5)
    with (
        Machines(settings, lambda node: known(node // 2)) as grid,
        pytest.raises(SettingsError, match="two SuperN"),
    ):
        Fleet.find(grid, settings, wait_s=0.5)


def test_a_machine_whose_message_got_lost_is_asked_again() -> None:
    settings = Settings.parse({**SMALL, "placement": "own"})
    known, asked = as_drawn(settings), []

    class Losing(Machines):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            asked.append([message.metadata.dst_node_id for message in messages])
            answered = super().send_and_receive(messages, timeout=timeout)
            return [reply for reply in answered if reply.metadata.src_node_id != 2 or len(asked) == 2]

    with Losing(settings, known) as grid:
        fleet = Fleet.find(grid, settings)
    assert fleet.nodes == [5, 4, 3, 2, 1, 0]
    assert fleet.hardware == {device: Table.of("phones").draw(1, device) for device in range(6)}
    assert asked == [[0, 1, 2, 3, 4, 5], [2]]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_hardware_that_cannot_be_is_refused(value: float) -> None:
    good = wire.hello(3, Hardware("board", 4.0, 2e9, 20.0))
    assert wire.introduced(good) == (3, Hardware("board", 4.0, 2e9, 20.0))
    with pytest.raises(ValueError, match=r"mac-per-s = .* is not between 1000 and 1e\+18"):
        wire.introduced(wire.hello(3, Hardware("board", 4.0, value, 20.0)))
    with pytest.raises(ValueError, match="does not say what it is"):
        wire.introduced(RecordDict())


def local_data(folder: Path, name: str, n: int, seed: int) -> None:
    """n samples of three classes that lie apart."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("a\nb\nc\n")
    y = generator.integers(3, size=n)
    x = generator.normal(0, 0.3, (n, 6)).astype(np.float32)
    x[np.arange(n), y] += 3
    np.savez(folder / name, x=x, y=y)


def test_machines_learn_from_their_own_folders_and_see_what_arrives(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local_data(tmp_path / "cloud", "1.npz", 100, seed=0)
    for device in range(3):
        local_data(tmp_path / str(device), "1.npz", 20 + 10 * device, seed=1 + device)
    settings = Settings.parse(
        {"placement": "own", "dataset": "folder", "data-root": str(tmp_path / "cloud"), "strategies": "fedavg,eclm"}
        | {"devices": 3, "cohort": 3, "rounds": 2, "rounds-per-step": 1, "eval-every": 1, "adapt-epochs": 2}
        | {"dense-epochs": 3, "modular-epochs": 2, "ability-epochs": 1, "per-device": True}
    )

    def config(node: int) -> dict[str, Any]:
        return {"partition-id": node, "data": str(tmp_path / str(node)), "link-mbit-s": 50.0, "device-class": "toy"}

    class Arriving(Machines):
        """Nodes whose processes live for one message, as in deployment; after the first round device 0 gets data."""

        def _exchange(self, asked, fold):
            if any(m.metadata.message_type == "train" and m.metadata.group_id == "2" for m in asked):
                local_data(tmp_path / "0", "2.npz", 40, seed=9)
            load_folder.cache_clear()
            world.cache_clear()
            return super()._exchange(asked, fold)

    play(tmp_path / "out", Arriving(settings, config), settings)
    rows = pd.read_csv(tmp_path / "out" / "devices.csv")
    held = rows[rows["method"] == "fedavg"].pivot(index="round", columns="device", values="samples")
    assert held.to_numpy().tolist() == [[4, 6, 8], [12, 6, 8]]  # every fifth sample scores
    assert rows[rows["round"] == 2].groupby("method")["accuracy"].mean().min() > 0.8
    assert set(rows["device_class"]) == {"toy"}
