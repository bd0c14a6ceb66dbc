"""A client that is a real machine: what its node-config says, what is measured on it, and runs like the simulation."""

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Context, Message, RecordDict

from fl.client import handlers
from fl.client_app import app
from fl.config import Settings, SettingsError
from fl.config.settings import flatten
from fl.devices import machine as module
from fl.devices.hardware import Hardware, Table, shares
from fl.devices.machine import Machine
from fl.devices.registered import VARIABLE, Registered, dumps
from fl.engines.engine import Engine, GridProxy
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.server.fleet import Fleet
from fl.server.run import execute, open_results
from fl.workloads import classify
from fl.workloads.classify import Classify
from fl.workloads.resolve import Run, default_tables, resolve
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from models.costs import Cost
from models.nn.mlp import mlp
from models.training.loop import Recipe
from partitions import datasets
from tests.fl.conftest import SMALL, resolved, rows_of, without_clock, write_device_files
from tests.fl.server.test_aggregation import PlainGrid

WHOLE = Cost(params=250, bytes=1000, macs=500, memory=4000)
NodeConfig = Callable[[int], dict[str, Any]]


def machines(run: Run, config: NodeConfig, **how: Any) -> LocalGrid:
    """Return virtual nodes, each with a node-config of its own."""
    return LocalGrid(as_flower_sends(run.settings), run.settings.devices.count, node_config=config, **how)


def as_flower_sends(settings: Settings) -> dict[str, Any]:
    """Return the run-config with all of its defaults."""
    return flatten(default_tables()) | settings.flat()


def as_drawn(settings: Settings) -> NodeConfig:
    """Return node-configs that say what the simulation draws; node n is the n-th client from the end."""
    devices, table = settings.devices, Table.of(settings.devices.hardware)

    def config(node: int) -> dict[str, Any]:
        client = devices.count - 1 - node
        hardware = table.draw(1, client)
        now = shares(table, hardware, 1, client, 0, devices.limit_low, devices.limit_high, 0.0)
        return {
            "partition-id": client,
            "device-class": hardware.name,
            "ram-gb": hardware.ram_gb,
            "mac-per-s": hardware.mac_per_s,
            "link-mbit-s": hardware.link_mbit_s,
            "limit-link": now.link,
            "limit-compute": now.compute,
            "limit-memory": now.memory,
        }

    return config


def play(out: Path, grid: Engine, run: Run) -> list[str]:
    with open_results([run], out, False) as results:
        execute(run, grid, results)
    return without_clock(out)


def test_machines_with_the_limits_of_the_simulation_give_its_rows(tmp_path: Path) -> None:
    common = {
        "strategies": "la,eclm", "devices.hardware": "testbed", "devices.background-load": 0.0, "eclm.candidates": 1.5,
    }  # fmt: skip
    real = {"devices.placement": "own", "devices.state-root": str(tmp_path / "devices")}
    simulated, own = resolved(common), resolved({**common, **real})
    with machines(own, as_drawn(own.settings)) as grid:
        lines = play(tmp_path / "own", grid, own)
    with LocalGrid(simulated.settings.flat(), simulated.settings.devices.count) as grid:
        assert lines == play(tmp_path / "simulated", grid, simulated)
    assert (tmp_path / "own" / "devices.csv").read_bytes() == (tmp_path / "simulated" / "devices.csv").read_bytes()
    assert list((tmp_path / "devices").iterdir()) == []


def compare(folder: Path, simulated: dict[str, Any], own: dict[str, Any]) -> None:
    """Run in simulation, and with two machines that have a folder each; assert that all rows are the same."""
    of_simulation, of_machines = (resolve(Settings.parse(values)) for values in (simulated, own))
    drawn = as_drawn(of_machines.settings)

    def config(node: int) -> dict[str, Any]:
        return drawn(node) | {"data": str(folder / f"device-{1 - node}")}

    with machines(of_machines, config) as grid:
        play(folder / "own", grid, of_machines)
    with LocalGrid(as_flower_sends(of_simulation.settings), 2) as grid:
        play(folder / "simulated", grid, of_simulation)
    pd.testing.assert_frame_equal(rows_of(folder / "own"), rows_of(folder / "simulated"))
    assert (rows_of(folder / "own")["failures"] == 0).all()


def test_machines_with_one_file_each_give_the_rows_of_the_simulation(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    common = {key: value for key, value in SMALL.items() if not key.startswith("data.")}
    common |= {"devices.hardware": "testbed", "devices.background-load": 0.0, "strategies": "fedavg,eclm"}
    common |= {"devices.count": 2, "cohort": 2, "rounds": 2, "eclm.kappa2": 1, **write_device_files(tmp_path, 2)}
    real = {"devices.placement": "own", "devices.state-root": str(tmp_path / "devices")}
    compare(tmp_path, common, common | real | {"data.root": str(tmp_path / "server")})
    assert (tmp_path / "own" / "devices.csv").read_bytes() == (tmp_path / "simulated" / "devices.csv").read_bytes()


def test_machines_that_do_not_hear_the_end_of_a_run_keep_their_files_and_delay_nothing(tmp_path: Path) -> None:
    run = resolved(
        {"strategies": "la", "rounds": 1, "devices.placement": "own", "devices.state-root": str(tmp_path / "devices")}
    )

    class Deaf(GridProxy):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            messages = list(messages)
            over = [message for message in messages if message.content[records.TASK].get("what") == "goodbye"]
            return [] if over else super().send_and_receive(messages, timeout=timeout)

    with machines(run, as_drawn(run.settings)) as grid:
        rows = play(tmp_path / "out", Deaf(grid), run)
    assert len(rows) == 2 and len(list((tmp_path / "devices").rglob("*.safetensors"))) == 6
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_testbed_has_equally_many_of_each_board() -> None:
    names = [Table.of("testbed").draw(seed, client).name for seed in (1, 2) for client in range(20)]
    assert names == ["Jetson Nano", "Raspberry Pi 4B"] * 20
    drawn = {client: Table.of("boards").draw(1, client).link_mbit_s for client in range(20)}
    assert {client: Table.of("testbed").draw(1, client).link_mbit_s for client in range(20)} == drawn


def test_what_a_machine_can_spare_worked_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly, and through the workload, which knows budgets and passes of the run-config."""
    monkeypatch.setattr(module, "free_compute", lambda: 0.5)
    monkeypatch.setattr(module, "free_memory", lambda: 6000.0)
    monkeypatch.setattr(Classify, "measure", lambda self: (3000.0, WHOLE))
    run = resolve(
        Settings.parse(
            {
                "client.local-epochs": 2, "data.samples-max": 10, "data.samples-min": 1, "devices.train-budget-s": 4,
                "devices.link-budget-s": 2, "devices.placement": "own",
            }
        )
    )  # fmt: skip
    machine = Machine.parse({"link-mbit-s": 0.002})
    # link: 0.002e6 / 8 bytes a second for 2 s are 500 of 1000; compute: 3000 * 0.5 MAC/s for 4 s are 6000, over 3 * 2 *
    # 10 passes 100 of 500; memory: half of 6000 is 3000 of 4000
    other = machine.model_copy(update={"mac_per_s": 6000.0, "limit_compute": 0.3, "limit_memory": 0.8})
    for one, expected in ((machine, (0.5, 0.2, 0.75)), (other, (0.5, 0.3, 0.75))):
        now = one.spare(lambda: (3000.0, WHOLE), passes=3 * 2 * 10, train_budget_s=4, link_budget_s=2)
        assert (now.link, now.compute, now.memory) == pytest.approx(expected)
        context = ClientContext(0, 1, 1, 0, ClientStateStore(tmp_path), machine=one)
        assert run.workload.limits(context) == now


def test_compute_is_timed_on_the_real_model_in_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: Any) -> None:
        time.sleep(0.02)  # what other programs do
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass

    monkeypatch.setattr(classify, "fit", fit)
    monkeypatch.setattr(classify, "TIMED_S", 0.1)
    # an epoch of 8 * 4 samples, 3 * 500 MACs each, in 10 ms
    rate = classify.time_training(mlp((4,), 3), Recipe(batch_size=4), WHOLE)
    assert rate == pytest.approx(8 * 4 * 3 * 500 / 0.01, rel=0.15)


def test_the_timed_compute_is_kept_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure() -> tuple[float, Cost]:
        return resolve(Settings.parse({"model.width": 24})).workload.measure()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(classify, "TIMED_S", 0.05)
    rate, whole = measure()
    assert rate > 1e6 and whole.macs > 1000
    with monkeypatch.context() as patch:
        patch.setattr(classify, "time_training", None)
        assert measure() == (rate, whole)
    (kept,) = (tmp_path / "driftfed" / "machine").iterdir()
    kept.write_text("torn")
    assert measure()[1] == whole


def test_a_wrong_node_config_is_one_sentence() -> None:
    vq = resolve(
        Settings.parse(
            {
                "workload": "vq", "strategies": "fedavg", "data.name": "questions", "data.partition": "iid",
                "drift.kind": "resample",
            }
        )
    )  # fmt: skip
    with pytest.raises(SettingsError, match="link-mbit-s = 'fast': input should be a valid number.*deploy supernode"):
        Machine.parse({"link-mbit-s": "fast"})
    with pytest.raises(SettingsError, match="limit-memory = 0"):
        Machine.parse({"limit-memory": 0})
    with pytest.raises(SettingsError, match="lacks link-mbit-s"):
        Machine.parse({"partition-id": 3}).hardware(vq.workload.measure)
    with pytest.raises(SettingsError, match="lacks mac-per-s"):
        Machine.parse({"link-mbit-s": 3}).hardware(vq.workload.measure)
    known = Machine.parse({"link-mbit-s": 3, "mac-per-s": 1e9, "device-class": "board", "ram-gb": 4})
    assert known.hardware(vq.workload.measure) == Hardware("board", 4.0, 1e9, 3.0)
    assert Machine.parse({"num-partitions": 4, "partition-id": 3}).partition_id == 3


def test_missing_machines_are_named() -> None:
    run = resolved({"devices.placement": "own"})
    known, devices = as_drawn(run.settings), run.settings.devices
    with (
        LocalGrid(run.settings.flat(), 4, node_config=lambda node: known(5 - node)) as grid,  # clients 0 to 3
        pytest.raises(SettingsError, match="partition-id 4, 5: .* devices.count = 4,"),
    ):
        Fleet.find(grid, devices, timeout_s=60, wait_s=0.5)


class Claiming:
    """Node-configs of six clients, client n on node 5 - n, and of a seventh node that claims what it wants."""

    def __init__(self, run: Run, node: int, **claim: Any):
        self.known, self.node, self.claim = as_drawn(run.settings), node, claim

    def __call__(self, node: int) -> dict[str, Any]:
        return {**self.known(min(node, 5)), **(self.claim if node == self.node else {})}


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("fl.server.fleet.log", lambda level, text, *values: said.append(text % values))
    return said


@pytest.mark.parametrize(
    ("node", "claim", "listed", "nodes", "said"),
    [
        (6, {"partition-id": 3}, {}, [5, 4, 3, 2, 1, 0], "SuperNode 6 says it is device 3.*SuperNode 2 is that device"),
        (6, {"partition-id": 3}, {6: None, 2: None}, [5, 4, 3, 6, 1, 0], "SuperNode 2 .*SuperNode 6 is that device"),
        (6, {"partition-id": 3}, {6: None, 2: 3}, [5, 4, 3, 2, 1, 0], "SuperNode 6 .*SuperNode 2 is that device"),
        (2, {"partition-id": 0}, {2: 3}, [5, 4, 3, None, 1, 0], "SuperNode 2 .*its key is registered for device 3"),
        (2, {"partition-id": 0}, {}, [2, 4, 3, None, 1, 0], "SuperNode 5 .*SuperNode 2 is that device"),
        (2, {"partition-id": 9}, {}, [5, 4, 3, None, 1, 0], "SuperNode 2 .*the run has the devices 0 to 5"),
        (2, {"partition-id": 4}, {1: 4, 77: 3}, [5, 4, 3, None, 1, 0], "SuperNode 2 .*SuperNode 1 is that device"),
        (2, {"link-mbit-s": 0}, {}, [5, 4, 3, None, 1, 0], "does not say what.*without clients.* partition-id 3$"),
    ],
)  # fmt: skip
def test_one_machine_takes_no_number_from_another_and_ends_no_run(
    node: int, claim: dict[str, Any], listed: dict[int, int | None], nodes: list[int | None], said: str,
    warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = resolved({"devices.placement": "own"})
    (tmp_path / "list").write_text(dumps({node: Registered(f"pi{node}", device) for node, device in listed.items()}))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "list"))
    with LocalGrid(run.settings.flat(), max(node + 1, 6), node_config=Claiming(run, node, **claim)) as grid:
        fleet = Fleet.find(grid, run.settings.devices, timeout_s=60)
    assert fleet.nodes == nodes
    assert re.search(said, " ".join(warnings))


@pytest.mark.parametrize(("limit", "warned"), [(1.0, 1), (0.9, 0)])
def test_devices_without_limits_are_a_warning(
    limit: float, warned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 1e12)
    changes = {"devices.placement": "own", "strategies": "fedavg,eclm", "rounds": 1, "cohort": 6}
    run = resolved(changes | {"devices.link-budget-s": 1e9, "devices.train-budget-s": 1e9})
    shares = {"limit-link": 9.0, "limit-compute": 9.0, "limit-memory": limit}
    known = as_drawn(run.settings)
    with LocalGrid(run.settings.flat(), 6, node_config=lambda node: known(node) | shares) as grid:
        play(tmp_path, grid, run)
    said = [record.getMessage() for record in caplog.records if "nothing limits" in record.getMessage()]
    assert len(said) == warned
    if said:
        assert said[0].startswith("eclm: nothing limits 6 of the 6 devices of round 1, so")


@pytest.mark.parametrize("wrap", [lambda grid: grid, PlainGrid], ids=["our engine", "Flower's default"])
def test_a_run_goes_on_without_a_client_that_no_machine_is(tmp_path: Path, wrap: Callable[[LocalGrid], Any]) -> None:
    run = resolved({"devices.placement": "own", "strategies": "fedavg,eclm", "cohort": 6, "eval.every": 1})
    with LocalGrid(run.settings.flat(), 6, node_config=Claiming(run, 2, **{"partition-id": 4})) as grid:
        play(tmp_path, wrap(grid), run)
    rows = pd.read_csv(tmp_path / "rounds.csv")
    assert {"fedavg", "eclm"} <= {*rows["method"]}
    assert {*rows["failures"]} == {1} and {*rows["evaluated"]} == {5}
    assert 3 not in {*pd.read_csv(tmp_path / "devices.csv")["device"]}


def test_a_machine_whose_message_was_lost_is_asked_again() -> None:
    run, asked = resolved({"devices.placement": "own"}), list[list[int]]()

    class Losing(GridProxy):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            messages = list(messages)
            asked.append([message.metadata.dst_node_id for message in messages])
            answered = super().send_and_receive(messages, timeout=timeout)
            return [reply for reply in answered if reply.metadata.src_node_id != 2 or len(asked) == 2]

    with machines(run, as_drawn(run.settings)) as grid:
        fleet = Fleet.find(Losing(grid), run.settings.devices, timeout_s=60)
    assert fleet.nodes == [5, 4, 3, 2, 1, 0]
    assert fleet.hardware == {client: Table.of("phones").draw(1, client) for client in range(6)}
    assert asked == [[0, 1, 2, 3, 4, 5], [2]]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_hardware_is_refused(value: float) -> None:
    good = records.hello(3, Hardware("board", 4.0, 2e9, 20.0))
    assert records.introduced(good) == (3, Hardware("board", 4.0, 2e9, 20.0))
    with pytest.raises(ValueError, match=r"mac-per-s = .* is not between 1000 and 1e\+18"):
        records.introduced(records.hello(3, Hardware("board", 4.0, value, 20.0)))
    with pytest.raises(ValueError, match="does not say what it is"):
        records.introduced(RecordDict())


def local_data(folder: Path, name: str, n: int, seed: int) -> None:
    """Write n samples of three classes that lie apart."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("a\nb\nc\n")
    y = generator.integers(3, size=n)
    x = generator.normal(0, 0.3, (n, 6)).astype(np.float32)
    x[np.arange(n), y] += 3
    np.savez(folder / name, x=x, y=y)


def test_machines_learn_from_their_own_folders_and_see_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process lives for one message, as in deployment. Client 0 gets data before it trains in round 2."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    local_data(tmp_path / "cloud", "1.npz", 100, seed=0)
    for client in range(3):
        local_data(tmp_path / str(client), "1.npz", 20 + 10 * client, seed=1 + client)
    values = {key: value for key, value in SMALL.items() if not key.startswith("data.")}
    run = resolve(
        Settings.parse(
            values
            | {"devices.placement": "own", "data.name": "folder", "data.root": str(tmp_path / "cloud")}
            | {"strategies": "fedavg,eclm", "devices.count": 3, "cohort": 3, "rounds": 2, "rounds-per-step": 1}
            | {"eval.every": 1, "client.local-epochs": 3, "client.adapt-epochs": 2}
            | {"pretrain.dense-epochs": 3, "pretrain.modular-epochs": 2}
        )
    )

    def config(node: int) -> dict[str, Any]:
        return {"partition-id": node, "data": str(tmp_path / str(node)), "link-mbit-s": 50.0, "device-class": "toy"}

    def new_process(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and message.metadata.group_id == "2":
            local_data(tmp_path / "0", "2.npz", 40, seed=9)
        datasets._load.cache_clear()
        handlers._resolved.cache_clear()
        return app(message, context)

    with machines(run, config, client_app=new_process) as grid:
        play(tmp_path / "out", grid, run)
    rows = pd.read_csv(tmp_path / "out" / "devices.csv")
    samples = rows[rows["method"] == "fedavg"].pivot(index="round", columns="device", values="samples")
    assert samples.to_numpy().tolist() == [[4, 6, 8], [12, 6, 8]]  # every fifth sample is in the test draw
    assert rows[rows["round"] == 2].groupby("method")["accuracy"].mean().min() > 0.8
    assert set(rows["device_class"]) == {"toy"}
