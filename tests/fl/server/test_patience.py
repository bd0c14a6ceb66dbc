"""Early stopping: counted by hand, and exact until it stops; then clients are scored and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fl.results.rows import Row
from fl.server.patience import Patience


@pytest.mark.parametrize(
    ("limit", "scores", "stops"),
    [
        (0, [0.5, 0.4, 0.3, 0.2], None),
        (1, [0.5, 0.5], 2),  # equal is not better
        (2, [0.5, 0.4, 0.6, 0.5, 0.6, 0.7], 5),
        (2, [0.5, None, 0.4, None, 0.6], None),  # rounds without scores do not count
    ],
)
def test_counted_by_hand(limit: int, scores: list[float | None], stops: int | None) -> None:
    patience, over = Patience(limit), []
    for at, score in enumerate(scores, 1):
        row = Row("", "", "fedavg", 1, round=at, step=0, devices=1)
        row = row if score is None else Row(**{**vars(row), "evaluated": 1, "accuracy_mean": score})
        patience.see({"fedavg": row})
        over += [at] if patience.over else []
    assert (over[0] if over else None) == stops


def test_one_better_row_of_a_method_is_enough() -> None:
    patience = Patience(1)
    for plain, tuned in ((0.5, 0.5), (0.4, 0.6), (0.6, 0.1)):
        scores = {"fedavg": plain, "fedavg+ft": tuned}
        patience.see({
            name: Row("", "", name, 1, round=1, step=0, devices=1, evaluated=1, accuracy_mean=score)
            for name, score in scores.items()
        })  # fmt: skip
        assert not patience.over


@pytest.mark.parametrize("mode", [{}, {"server.aggregation": "buffered", "server.buffer": 1}], ids=["sync", "buffered"])
def test_a_run_is_the_same_until_it_stops_and_complete_afterwards(mode: dict, play: Callable, tmp_path: Path) -> None:
    same = {"strategies": "na,fedavg,eclm", "rounds": 8, "eval.every": 1, "client.lr": 0.2, **mode}
    for limit in (0, 1):
        play(tmp_path / str(limit), {**same, "server.patience": limit})
    plain, stopped = (pd.read_csv(tmp_path / str(limit) / "rounds.csv") for limit in (0, 1))
    assert (stopped.groupby("method").size() == 8).all()
    for reports in (["na", "na+ft"], ["fedavg", "fedavg+ft"], ["eclm-derive", "eclm"]):
        a, b = (rows[rows["method"].isin(reports)] for rows in (plain, stopped))
        scores = a.pivot(index="round", columns="method", values="accuracy_mean")
        worse = (scores <= scores.cummax().shift()).all(axis=1)
        last = int(worse.idxmax())
        assert worse.any() and last < 8
        until = [rows[rows["round"] <= last].drop(columns="wall_s").reset_index(drop=True) for rows in (a, b)]
        pd.testing.assert_frame_equal(*until)
        after = b[b["round"] > last]
        assert (after[["devices", "failures", "late", "train_macs"]] == 0).all(axis=None)
        asked = set() if "eclm" in reports else {"bytes_down", "bytes_up"}  # a client asks ECLM what fits it
        assert (after[list(asked)] == 0).all(axis=None)
        assert set(after[after["evaluated"] > 0]["round"]) == {r for r in (2, 4, 6, 8) if r > last}
        assert after["virtual_s"].nunique() == 1
