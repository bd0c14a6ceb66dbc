"""A run that is killed, at whatever point, goes on to the files of a run that was not."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.catalog import EXPERIMENTS
from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.messages import records as wire
from fl.results.files import CHECKPOINTS, ResultsError
from fl.server.arrivals import Arrival
from fl.server.checkpoint import Checkpoints, dumps, loads
from fl.server.run import open_results, run
from fl.workloads.state_store import MOMENTS, NotHeld, Store, forget
from models.costs import Cost
from strategies import STRATEGIES
from strategies.base import Limits, Profile, Task, Update
from tests.fl.conftest import SMALL, without_clock

ROOT = Path(__file__).resolve().parents[3]
COST = Cost(1, 2, 3, 4)


class Killed(BaseException):
    """Like SIGKILL, nothing in between may handle it."""


class Mortal(LocalGrid):
    """Dies once at every moment of the run: when the devices have learned, and the cloud has heard of nothing."""

    died: set[int]

    def _exchange(self, messages, fold):
        replies = super()._exchange(messages, fold)
        moments = {message.content[wire.TASK]["moment"] for message in messages} - self.died
        self.died |= moments
        if moments:
            raise Killed
        return replies


def killed(settings: Settings, out: Path, died: set[int]) -> bool:
    """One life of a run; whether it was killed."""
    with open_results([settings], out, False) as results, Mortal(settings.flat(), settings.devices) as grid:
        grid.died = died
        try:
            run(settings, grid, results)
        except Killed:
            return True
    return False


def files(out: Path) -> tuple[list[str], bytes]:
    return without_clock(out), (out / "devices.csv").read_bytes()


TINY = {**SMALL, "devices": 4, "cohort": 2, "rounds": 3, "samples-max": 20, "test-samples": 10}
CASES: dict[str, dict[str, object]] = {name: {"strategies": name} for name in STRATEGIES} | {
    f"{name} buffered": {"strategies": name, "aggregation": "buffered", "buffer": 1, "deadline-s": 0.5}
    for name in ("fedavg", "heterofl", "eclm")
}
CASES["eclm candidates"] = {
    "strategies": "eclm", "candidates": 2.0, "shift-threshold": 0.02, "required-accuracy": 0.9,
    "measure-forgetting": True, "eval-every": 1,
}  # fmt: skip
CASES["eclm-local candidates"] = {**CASES["eclm candidates"], "strategies": "eclm-local"}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_again_and_again_is_a_run_that_was_not(case: str, tmp_path: Path) -> None:
    settings = Settings.parse({**TINY, **CASES[case], "state-root": str(tmp_path / "devices")})
    assert not killed(settings, tmp_path / "whole", set(range(100)))
    died: set[int] = set()
    while killed(settings, tmp_path / "killed", died):
        pass
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert {moment // MOMENTS for moment in died} >= {2, 3}  # at least where devices are scored
    assert not (tmp_path / "killed" / CHECKPOINTS).exists()
    assert list((tmp_path / "devices").glob("*")) == []


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("corrupt", [1, 2], ids=["the newest", "both"])
@pytest.mark.parametrize("how", [spoil, lambda path: os.truncate(path, 100)], ids=["a bit flipped", "torn"])
def test_a_corrupt_checkpoint_is_passed_over(how: Callable, corrupt: int, tmp_path: Path) -> None:
    """Killed in round 3, with the checkpoints of rounds 1 and 2; devices go back as far as the cloud does."""
    settings = Settings.parse({**TINY, "strategies": "la", "state-root": str(tmp_path / "devices")})
    assert not killed(settings, tmp_path / "whole", set(range(100)))
    assert killed(settings, tmp_path / "killed", set(range(100)) - {3 * MOMENTS + 3})
    kept = sorted((tmp_path / "killed" / CHECKPOINTS).rglob("*.safetensors"))
    assert [path.name[:7] for path in kept] == ["000001-", "000002-"]
    for path in kept[-corrupt:]:
        how(path)
    assert not killed(settings, tmp_path / "killed", set(range(100)))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_checkpoint_of_rounds_whose_rows_are_lost_is_passed_over(tmp_path: Path) -> None:
    settings = Settings.parse({**TINY, "strategies": "fedavg"})
    assert not killed(settings, tmp_path / "whole", set(range(100)))
    assert killed(settings, tmp_path / "killed", set(range(100)) - {3 * MOMENTS + 1})
    rounds = tmp_path / "killed" / "rounds.csv"
    rounds.write_text("\n".join(rounds.read_text().splitlines()[:3]) + "\n")  # only round 1
    assert not killed(settings, tmp_path / "killed", set(range(100)))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def same(a: object, b: object) -> bool:
    """Equal, also in type; a tuple comes back as a list."""
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and same(vars(a), vars(b))
    return type(a) is type(b) and a == b


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
tensors = [torch.arange(6.0).reshape(2, 3).T, torch.tensor(3), torch.zeros(0, 2), torch.ones(2, dtype=torch.float16)]
arrays = st.sampled_from([*tensors, np.eye(2)[:, 1], np.array([True]), np.arange(3, dtype=np.uint8)])
trees = st.recursive(
    scalars | arrays | st.sets(st.integers()),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.integers() | st.text(), inner),
)


@given(trees)
def test_what_is_read_is_what_was_written(tree: object) -> None:
    assert same(tree, loads(dumps(tree)))


def test_records_come_back_and_what_they_share_is_kept_once() -> None:
    big = torch.randn(1000)
    task = Task("dense", {"a": torch.tensor([1, 2])}, {"w": big}, 3, COST, rates=[0.5])
    profile = Profile(2, Limits(1, 2, float("inf")), {"a": np.array([0.25, 0.75])})
    tree = {d: Arrival(1.5, 2, Update(d, {"w": big}, 10, [0, 1]), task, profile) for d in range(9)}
    data = dumps(tree)
    assert same(tree, loads(data)) and len(data) < 3 * 4000
    back = loads(data)
    assert back[0].task.state["w"] is back[8].update.state["w"]


def test_what_a_checkpoint_cannot_hold_is_said() -> None:
    with pytest.raises(TypeError, match="cannot hold a Generator, only Arrival"):
        dumps({"rng": np.random.default_rng(0)})


def test_a_checkpoint_of_another_version_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, "a b", "la", 0, 7)
    assert checkpoints.resume(9) == (0, None)
    checkpoints.save(1, dumps({"x": 1}))
    with monkeypatch.context() as patch:
        patch.setattr("fl.server.checkpoint.VERSION", "0")
        checkpoints.save(2, dumps({"x": 2}))
    again = Checkpoints(tmp_path, "a b", "la", 0, 8)
    assert again.run == checkpoints.run == f"{7:016x}" and again.resume(9) == (1, {"x": 1})


def test_a_device_goes_back_two_rounds(tmp_path: Path) -> None:
    """It trains in every round; the cloud was in round 5 and starts again after round 3, but no earlier."""

    def at(moment: int) -> Store:
        return Store.of(tmp_path, "1", "la", 0, 5, moment)

    def kept(store: Store) -> float:
        return store.load("model")["w"].item()

    for round_ in range(1, 6):
        at(MOMENTS * round_ + 1).save("model", {"w": torch.tensor(float(round_))})
    assert kept(at(MOMENTS * 5 + 2)) == 5  # its own last word
    assert kept(at(MOMENTS * 5)) == 4
    assert kept(at(MOMENTS * 4)) == 3
    with pytest.raises(NotHeld):
        at(MOMENTS * 3)
        kept(at(MOMENTS * 3))


def test_a_message_that_comes_twice_is_answered_alike(tmp_path: Path) -> None:
    for _ in range(2):
        store = Store.of(tmp_path, "1", "la", 0, 5, 9)
        assert not store.holds("model")
        store.save("model", {"w": torch.ones(1)})
        assert store.holds("model")


@pytest.mark.parametrize("name", ["../1", "a/b", "", ".", "run 1"])
def test_nobody_can_name_a_folder_elsewhere(name: str, tmp_path: Path) -> None:
    for run_, method in ((name, "la"), ("1", name)):
        with pytest.raises(ValueError, match="no name of a run or a method"):
            Store.of(tmp_path, run_, method, 0, 5, 4)
    with pytest.raises(ValueError, match="no name of a run or a method"):
        forget(tmp_path, name)


def test_a_disk_that_fills_at_any_write_leaves_what_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th life finds the disk full at its n-th write, until one finds room for all."""
    settings = Settings.parse({**TINY, "strategies": "la", "rounds": 2, "state-root": str(tmp_path / "devices")})
    assert not killed(settings, tmp_path / "whole", set(range(100)))
    real, writes, lives = os.fsync, 0, 0

    def fsync(file: int) -> None:
        nonlocal writes
        writes += 1
        if writes == lives:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    full = True
    while full:
        writes, lives = 0, lives + 1
        try:
            full = killed(settings, tmp_path / "full", set(range(100)))
        except ResultsError as error:
            assert re.fullmatch(r"cannot .*: No space left on device; the same command goes on when .*", str(error))
            assert not list(tmp_path.rglob("*.tmp"))
            for path in (tmp_path / "full").glob("*.csv"):
                assert path.read_bytes().endswith(b"\n")
    assert lives > 5 and files(tmp_path / "full") == files(tmp_path / "whole")


def test_a_device_whose_disk_is_full_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.of(tmp_path, "1", "la", 0, 5, 4).save("model", {"w": torch.ones(1)})

    def full(state: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fl.workloads.state_store.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        Store.of(tmp_path, "1", "la", 0, 5, 8).save("model", {"w": torch.zeros(1)})
    assert Store.of(tmp_path, "1", "la", 0, 5, 8).load("model")["w"] == 1 and not list(tmp_path.rglob("*.tmp"))


def test_a_command_that_is_killed_goes_on_to_the_same_csv(tmp_path: Path) -> None:
    """SIGKILL, which nothing can handle, some rounds into the first method."""
    changes = {**TINY, "strategies": "fedavg,la", "rounds": 30, "eval-every": 30, "rounds-per-step": 3}
    keys = [f"--set={key}={value}" for key, value in changes.items()]
    command = [sys.executable, "-m", "experiments", "run", "main", "--workers=1", "--seeds=1", *keys]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, f"--out={out}"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    first = start(tmp_path / "killed")
    rounds = tmp_path / "killed" / "rounds.csv"
    end = time.monotonic() + 60
    while time.monotonic() < end and first.poll() is None:
        if rounds.is_file() and rounds.read_bytes().count(b"\n") > 20:
            break
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL and 20 < len(without_clock(tmp_path / "killed")) < 91
    said, _ = start(tmp_path / "killed").communicate()
    assert re.search(rb"fedavg: goes on after round [1-9]", said), said.decode()
    (settings,) = EXPERIMENTS["main"].resolve("cpu", [1], changes)
    assert not killed(settings, tmp_path / "whole", set(range(1000)))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
