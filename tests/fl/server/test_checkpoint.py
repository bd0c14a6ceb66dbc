"""A run that is killed, at whatever point, continues to the files of a run that was not."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from experiments.catalog import EXPERIMENTS
from fl.engines.engine import Aggregator
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.results.files import CHECKPOINTS, ResultsError
from fl.server.arrivals import Arrival
from fl.server.checkpoint import Checkpoints, dumps, loads
from fl.server.run import execute, open_results
from fl.server.scores import ClientScore, Score
from fl.workloads.resolve import Run, resolve
from fl.workloads.state_store import MOMENTS
from models.costs import Cost
from models.submodel import FULL
from strategies import STRATEGIES
from strategies.core.client import Limits
from strategies.core.strategy import Profile, SubModel, TrainTask, Update
from tests.fl.conftest import SMALL, resolved, without_clock

ROOT = Path(__file__).resolve().parents[3]
COST = Cost(1, 2, 3, 4)
NEVER = set(range(1000))  # moments at which a run has died already


class Killed(BaseException):
    """Like SIGKILL, nothing in between may handle it."""


class Mortal(LocalGrid):
    """Dies once at every moment of the run: when the clients have trained, and the server has not heard of it."""

    died: set[int]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = list(messages)
        replies = super().send_and_receive(asked, timeout=timeout)
        self._die(asked)
        return replies

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        asked = list(messages)
        replies = super().aggregate(asked, aggregator, timeout)
        self._die(asked)
        return replies

    def _die(self, messages: list[Message]) -> None:
        moments = {message.content[records.TASK]["moment"] for message in messages} - self.died
        self.died |= moments
        if moments:
            raise Killed


def killed(run: Run, out: Path, died: set[int]) -> bool:
    """One life of a run; whether it was killed."""
    settings = run.settings
    with open_results([run], out, False) as results, Mortal(settings.flat(), settings.devices.count) as grid:
        grid.died = died
        try:
            execute(run, grid, results)
        except Killed:
            return True
    return False


def files(out: Path) -> tuple[list[str], bytes]:
    return without_clock(out), (out / "devices.csv").read_bytes()


TINY = {"devices.count": 4, "cohort": 2, "rounds": 3, "data.samples-max": 20, "data.test-samples": 10}
CASES: dict[str, dict[str, object]] = {name: {"strategies": name} for name in STRATEGIES} | {
    f"{name} buffered": {
        "strategies": name, "server.aggregation": "buffered", "server.buffer": 1, "server.deadline-s": 0.5,
    }
    for name in ("fedavg", "scaffold", "heterofl", "eclm", "ifca", "feddrift", "flash")
}  # fmt: skip
CASES["fedrep"] = {"strategies": "fedrep", "fedrep.head-epochs": 1, "client.local-epochs": 2}
CASES["feddrift"] = {"strategies": "feddrift", "feddrift.delta": 0.02, "rounds": 5, "cohort": 3}
CASES["eclm candidates"] = {
    "strategies": "eclm", "eclm.candidates": 2.0, "eclm.shift-threshold": 0.02, "eclm.required-accuracy": 0.9,
    "eval.forgetting": True, "eval.every": 1,
}  # fmt: skip
CASES["fedavg patience"] = {"strategies": "fedavg", "server.patience": 1, "rounds-per-step": 1, "rounds": 4}
CASES["eclm-local candidates"] = {**CASES["eclm candidates"], "strategies": "eclm-local"}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_again_and_again_is_a_run_that_was_not(case: str, tmp_path: Path) -> None:
    run = resolved({**TINY, **CASES[case], "devices.state-root": str(tmp_path / "clients")})
    assert not killed(run, tmp_path / "whole", NEVER)
    died: set[int] = set()
    while killed(run, tmp_path / "killed", died):
        pass
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert {moment // MOMENTS for moment in died} >= {2, 3}  # at least where clients are scored
    assert not (tmp_path / "killed" / CHECKPOINTS).exists()
    assert list((tmp_path / "clients").glob("*")) == []


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("corrupt", [1, 2], ids=["the newest", "both"])
@pytest.mark.parametrize("how", [spoil, lambda path: os.truncate(path, 100)], ids=["a bit flipped", "cut short"])
def test_a_corrupt_checkpoint_is_passed_over(how: Callable, corrupt: int, tmp_path: Path) -> None:
    """Killed in round 3, with the checkpoints of rounds 1 and 2; clients go back as far as the server does."""
    run = resolved({**TINY, "strategies": "la", "devices.state-root": str(tmp_path / "clients")})
    assert not killed(run, tmp_path / "whole", NEVER)
    assert killed(run, tmp_path / "killed", NEVER - {3 * MOMENTS + 3})
    kept = sorted((tmp_path / "killed" / CHECKPOINTS).rglob("*.safetensors"))
    assert [path.name[:7] for path in kept] == ["000001-", "000002-"]
    for path in kept[-corrupt:]:
        how(path)
    assert not killed(run, tmp_path / "killed", NEVER)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_checkpoint_of_rounds_whose_rows_are_lost_is_passed_over(tmp_path: Path) -> None:
    run = resolved({**TINY, "strategies": "fedavg"})
    assert not killed(run, tmp_path / "whole", NEVER)
    assert killed(run, tmp_path / "killed", NEVER - {3 * MOMENTS + 1})
    rounds = tmp_path / "killed" / "rounds.csv"
    rounds.write_text("\n".join(rounds.read_text().splitlines()[:3]) + "\n")  # only round 1
    assert not killed(run, tmp_path / "killed", NEVER)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.parametrize("table", ["rounds.csv", "devices.csv"])
@pytest.mark.parametrize("line", [1, -1], ids=["the first row", "the last row"])
def test_a_changed_row_of_an_unfinished_run_is_written_again(table: str, line: int, tmp_path: Path) -> None:
    """A checkpoint is used only with the rows that it was written after."""
    run = resolved({**TINY, "strategies": "fedavg", "eval.every": 1})
    assert not killed(run, tmp_path / "whole", NEVER)
    assert killed(run, tmp_path / "killed", NEVER - {3 * MOMENTS + 1})
    path = tmp_path / "killed" / table
    lines = path.read_text().splitlines()
    lines[line] = lines[line][:-1] + ("1" if lines[line][-1] != "1" else "2")
    path.write_text("\n".join(lines) + "\n")
    assert not killed(run, tmp_path / "killed", NEVER)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_row_of_an_unknown_run_is_refused(tmp_path: Path) -> None:
    run = resolved({**TINY, "strategies": "fedavg"})
    assert killed(run, tmp_path / "killed", NEVER - {3 * MOMENTS + 1})
    path = tmp_path / "killed" / "rounds.csv"
    path.write_text(path.read_text().replace(",fedavg,", ",fedavh,", 1))
    with pytest.raises(ResultsError, match=r"rounds.csv' has a row of no run of this folder .*method 'fedavh'"):
        killed(run, tmp_path / "killed", NEVER)


def test_foreign_files_among_checkpoints_stay(tmp_path: Path) -> None:
    run = resolved({**TINY, "strategies": "fedavg"})
    assert not killed(run, tmp_path / "whole", NEVER)
    assert killed(run, tmp_path / "killed", NEVER - {3 * MOMENTS + 1})
    (own,) = {path.parent for path in (tmp_path / "killed" / CHECKPOINTS).rglob("*.safetensors")}
    foreign = {own / name for name in ("notes-x.safetensors", "000001-x.safetensors", "run-x", "notes.txt", ".x.tmp")}
    (own / ".000001-00000000.safetensors.77.tmp").write_text("a write that a kill cut off")
    for path in foreign:
        path.write_text("mine")
    (own / "000009-00000000.safetensors").mkdir()
    assert not killed(run, tmp_path / "killed", NEVER)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert {path for path in own.iterdir() if path.is_file()} == foreign


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
    model = SubModel("dense", {"a": torch.tensor([1, 2])}, {"w": big})
    task = TrainTask(
        model, 3, COST, options={"rates": [0.5], "masked": "zero"}, tensors={"variate": {"w": big}}, weight="client",
        index_weights={"a": torch.tensor([0.5, 2.0])},
    )  # fmt: skip
    profile = Profile(2, Limits(1, 2, float("inf")), {"importance": {"a": np.array([0.25, 0.75])}})
    score = Score(0.5, 0.25, 1.5)
    scored = ClientScore(
        1, 10, {"delivered": score, "adapted": score}, 7, 0.5, 2.0, 3.0, {"delivered": 1.0, "adapted": 2.0},
        {"delivered": 0.1, "adapted": 0.2}, {"delivered": {"bits": 1.0}, "adapted": {}},
    )  # fmt: skip
    update = {d: Update(d, {"w": big}, 10, {"classes": [0, 1]}, {"variate": {"w": big}}) for d in range(9)}
    tree = {d: [Arrival(1.5, 2, update[d], task), profile, scored] for d in range(9)}
    data = dumps(tree)
    assert same(tree, loads(data)) and len(data) < 3 * 4000 + 9 * 900
    back = loads(data)
    assert back[0][0].task.model.state["w"] is back[8][0].update.state["w"] is back[3][0].update.tensors["variate"]["w"]


def test_a_model_of_which_nothing_is_sent_comes_back() -> None:
    task = TrainTask(SubModel("modular", FULL, None), 1, COST, upload=False, keep=True)
    assert same(task, loads(dumps(task))) and loads(dumps(task)).model.state is None


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


def test_a_disk_that_fills_at_any_write_leaves_what_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th life finds the disk full at its n-th write, until one finds room for all."""
    run = resolved({**TINY, "strategies": "la", "rounds": 2, "devices.state-root": str(tmp_path / "clients")})
    assert not killed(run, tmp_path / "whole", NEVER)
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
            full = killed(run, tmp_path / "full", NEVER)
        except ResultsError as error:
            assert re.fullmatch(
                r"cannot .*: No space left on device; solve this, then repeat the same command to continue", str(error)
            )
            assert not list(tmp_path.rglob("*.tmp"))
            for path in (tmp_path / "full").glob("*.csv"):
                assert path.read_bytes().endswith(b"\n")
    assert lives > 5 and files(tmp_path / "full") == files(tmp_path / "whole")


def test_a_command_that_is_killed_continues_to_the_same_csv(tmp_path: Path) -> None:
    """SIGKILL, which nothing can handle, some rounds into the first method."""
    changes = {**SMALL, **TINY, "strategies": "fedavg,la", "rounds": 30, "eval.every": 30, "rounds-per-step": 3}
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
    assert re.search(rb"fedavg: continues after round [1-9]", said), said.decode()
    (settings,) = EXPERIMENTS["main"].resolve("cpu", [1], changes)
    assert not killed(resolve(settings), tmp_path / "whole", NEVER)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
