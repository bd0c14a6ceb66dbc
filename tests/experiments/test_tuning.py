"""`tune` finds what is best, never on reported seeds, and continues after an interruption as if there had been none."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import tuning
from experiments.cli.main import INTERRUPTED
from experiments.launch import Launch
from experiments.tuning import Axis
from fl.config import SettingsError
from fl.results.rows import Row
from fl.server.run import Event, open_results
from tests.experiments.cli.conftest import Call, call  # noqa: F401

pytest.importorskip("optuna")
TUNE = ["tune", "quickstart", "--settings", "m=2", "--scale", "smoke", "--method", "fedavg+ft"]
LR = ["--over", "client.lr=0.001..0.1"]


def test_axes_by_hand() -> None:
    listed, ints, floats = map(Axis.parse, ("eclm.top-k=2, 4,6", "cohort=2..20", "client.lr = 0.001..0.1"))
    assert listed.ends == ("2", "4", "6") and listed.holds(4) == "4" and listed.holds(5) is None
    assert ints.whole and ints.distribution.log and ints.holds(20) == 20 and ints.holds(21) is None
    assert floats.distribution.log and floats.text(0.0123456) == "0.0123" and floats.holds("auto") is None
    assert not Axis.parse("client.momentum=0.5..0.9").distribution.log
    for wrong in ("client.lr", "client.lr=", "client.lr=0.1", "client.lr=0.1,0.1", "client.lr=1..0.1", "=1,2", "a=1..b",
                  "a=1..inf", "a=1..nan"):  # fmt: skip
        with pytest.raises(SettingsError, match=r"write at least two values, KEY=V1,V2,\.\.\., or a range"):
            Axis.parse(wrong)


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.floats(0, 1))
def test_a_value_of_a_range_stays_in_it_when_it_is_rounded(low: float, high: float, share: float) -> None:
    low, high = sorted((low, high))
    if low < high:
        axis = Axis("key", (), low, high)
        assert low <= float(axis.text(low + share * (high - low))) <= high


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--seeds", "1,101", *LR], "'quickstart' reports seed 1, and a score on it would not be new"),
        (["--over", "client.rl=0.1,0.2"], "did you mean"),
        (["--over", "client.lr=0..0.1"], "client.lr"),  # an end that is impossible
        (["--over", "eclm.top-k=2,4"], "eclm.top-k"),  # of a method that is not run
        ([*LR, "--set", "client.lr=0.1"], "the key is given twice"),
        ([*LR, "--engine", "flower"], "unknown engine 'flower'; known: local, ray"),
        ([*LR, "--method", "fedavg+tf"], "no such row; known: na, na+ft, la, fedavg, fedavg+ft"),
        ([*LR, "--method", ""], "--method is missing: name the row"),
        (["--over", "seeds=7,8"], "--over seeds"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_starts(
    words: list[str], error: str, call: Call, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    code, _, errors = call(*TUNE, *words, "--out", str(tmp_path / "out"))
    assert code == 1 and error in " ".join(errors.split()) and not (tmp_path / "out").exists(), errors


def played(accuracy: Callable[[Launch, int], float], deaths: set[int] = frozenset()) -> Callable[[Launch], None]:  # type: ignore[assignment]
    """Return an engine without clients: four evaluations, of which the last has the accuracy; it dies at some calls."""
    calls = [0]

    def engine(order: Launch) -> None:
        calls[0] += 1
        with open_results(order.runs, order.out, order.overwrite) as results:
            for run in order.runs:
                name, seeds = run.settings.setting, run.settings.seed_list
                for seed in seeds:
                    if (name, "fedavg+ft", seed) in results.done():
                        order.observe(name, Event("skipped", seed, "fedavg", 4, 4))
                        continue
                    results.rewind(name, "fedavg+ft", seed)
                    for at in range(1, 5):
                        if calls[0] in deaths and (seed, at) == (seeds[-1], 3):
                            raise KeyboardInterrupt
                        score = accuracy(order, seed) * (0.6 + 0.1 * at)
                        row = Row("quickstart", name, "fedavg+ft", seed, round=at, step=at - 1, devices=1, evaluated=4,
                                  accuracy_mean=score)  # fmt: skip
                        results.append([row])
                        order.observe(name, Event("round", seed, "fedavg", at, 4, (row,)))
                    results.finish(name, "fedavg+ft", seed)

    return engine


def peak(order: Launch, seed: int) -> float:
    """The best learning rate is 0.02."""
    rate = order.runs[0].settings.client.lr
    return 1 / (1 + abs(rate - 0.02) * 30) - (0.01 if seed == 101 else 0)


def read(out: Path) -> tuple[str, str, str]:
    rounds = pd.read_csv(out / "rounds.csv").drop(columns="wall_s")
    rounds = rounds.sort_values(["setting", "seed", "round"]).to_csv(index=False)
    return (out / "trials.csv").read_text().split("\n", 1)[1], (out / "best.toml").read_text(), rounds


def test_a_search_finds_the_peak_and_an_interrupted_one_gives_the_same(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    command = [*TUNE, *LR, "--trials", "12", "--out"]
    monkeypatch.setitem(tuning.ENGINES, "local", played(peak))
    code, printed, errors = call(*command, str(tmp_path / "whole"))
    assert code == 0, errors
    trials = pd.read_csv(tmp_path / "whole" / "trials.csv")
    assert len(trials) == 12 and trials["client.lr"][0] == 0.01 and "pruned" in set(trials["state"])
    complete = trials[trials["state"] == "complete"]
    best = complete.loc[complete["accuracy_mean"].idxmax()]
    assert 0.015 < best["client.lr"] < 0.025
    assert f"client.lr={best['client.lr']:g}" in printed.replace("\n", "")
    # mean over the ends of steps (0.7 to 1 of the final score), and over two seeds of which one is 0.01 lower
    shape, final = 0.85, 1 / (1 + abs(best["client.lr"] - 0.02) * 30)
    assert best["accuracy_mean"] == pytest.approx(shape * (final - 0.005), abs=1e-9)
    assert f"lr = {best['client.lr']:g}" in (tmp_path / "whole" / "best.toml").read_text()
    assert {101, 102} == set(pd.read_csv(tmp_path / "whole" / "rounds.csv")["seed"])

    monkeypatch.setitem(tuning.ENGINES, "local", played(peak, deaths={1, 5}))
    ends = [call(*command, str(tmp_path / "cut")) for _ in range(3)]
    assert [code for code, _, _ in ends] == [INTERRUPTED, INTERRUPTED, 0], ends
    same = ["accuracy_mean", "evaluations", "state", "client.lr"]  # numbers of trials count those that were killed
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "cut" / "trials.csv")[same], trials[same])
    assert read(tmp_path / "cut")[1:] == read(tmp_path / "whole")[1:]

    code, _, errors = call(*command, str(tmp_path / "whole"), "--seeds", "103")
    assert code == 1 and "holds a search with other values of seeds" in errors


def test_few_combinations_are_all_tried_once_and_a_failed_one_ends_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    def failing(order: Launch, seed: int) -> float:
        if order.runs[0].settings.client.momentum == 0.5 and order.runs[0].settings.client.lr == 0.1:
            raise tuning.NobodyAnswered("fedavg: every client failed")
        return peak(order, seed)

    monkeypatch.setitem(tuning.ENGINES, "local", played(failing))
    words = ["--over", "client.lr=0.01,0.02,0.1", "--over", "client.momentum=0.5,0.9", "--no-prune"]
    code, printed, errors = call(*TUNE, *words, "--out", str(tmp_path / "out"))
    assert code == 0, errors
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert len(trials) == len(trials[["client.lr", "client.momentum"]].drop_duplicates()) == 6
    assert sorted(trials["state"]) == ["complete"] * 5 + ["failed"] and "fedavg: every client failed" in printed
    assert "best of 6 trials: 84.6 % with --set client.lr=0.02" in printed


def test_results_of_something_else_are_not_touched(call: Call, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "rounds.csv").write_text("experiment\n")
    code, _, errors = call(*TUNE, *LR, "--out", str(tmp_path))
    assert code == 1 and "holds results that are no search" in errors
    assert (tmp_path / "rounds.csv").read_text() == "experiment\n"
