"""Rounds of clients that come and go."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl.results.reader import read_rounds
from fl.server.rounds import Rounds
from partitions.availability import Diurnal
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Budget
from strategies.fedavg import FedAvg
from strategies.local import LocalAdaptation

TRACE = "1 1 0 0 0 1\n0 0 0 0 0 0\n1 1 1 1 1 1\n0 0 0 1 1 0\n"
Play = Callable[..., list[str]]


@pytest.fixture
def trace(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "trace.csv").write_text(TRACE)
    return {"devices.availability": "trace", "trace.file": str(tmp_path / "trace.csv")}


def test_a_cohort_is_drawn_from_the_clients_that_are_online(
    budget: Budget, models_maker: Callable[..., PretrainedModels]
) -> None:
    model = Diurnal(period=4, share=0.5, spread=1)
    method = FedAvg(models_maker(), replace(budget, availability=model), 3)
    chosen = set()
    for server_round in range(1, 40):
        online = np.flatnonzero(model.online(3, server_round, np.arange(10))).tolist()
        cohort = method.sample_clients(server_round)
        assert set(cohort) <= set(online) and len(cohort) == min(4, len(online)) and cohort == sorted(cohort)
        chosen |= set(cohort)
    assert chosen == set(range(10))


def test_methods_that_train_without_the_server_need_no_connection(
    budget: Budget, models_maker: Callable[..., PretrainedModels]
) -> None:
    method = LocalAdaptation(models_maker(), replace(budget, availability=Diurnal(period=9, share=0.2)), 3)
    assert method.online(np.arange(10), 5).tolist() == method.sample_clients(1) == list(range(10))


def test_a_run_follows_a_trace_also_in_a_round_without_clients(
    tmp_path: Path, play: Play, trace: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cohort is 3 of the clients that are online; every client is scored."""
    seen: list[list[int]] = []
    honest = Rounds._dropouts
    monkeypatch.setattr(
        Rounds, "_dropouts", lambda self, tasks, r: seen.append(sorted(tasks)) or honest(self, tasks, r)
    )
    lines = play(tmp_path / "one", {"strategies": "fedavg", **trace})
    assert [seen[r] for r in (0, 1, 3)] == [[0, 1, 5], [], [3, 4]] and len(seen[2]) == 3
    rows = read_rounds(tmp_path / "one").query("method == 'fedavg'").sort_values("round")
    assert rows["devices"].tolist() == [3, 0, 3, 2] and rows["failures"].sum() == 0
    assert rows["bytes_up"].tolist()[1] == 0 and set(rows["evaluated"]) <= {0, 6}
    assert play(tmp_path / "two", {"strategies": "fedavg", **trace}, workers=2) == lines


def test_a_client_that_drops_out_got_the_model_and_sends_nothing(tmp_path: Path, play: Play) -> None:
    keys = {"strategies": "fedavg,la", "cohort": 6}
    play(tmp_path / "all", keys)
    lines = play(tmp_path / "some", {**keys, "devices.dropout": 0.5})
    whole, some = (
        read_rounds(tmp_path / name).query("method == 'fedavg'").sort_values("round") for name in ("all", "some")
    )
    assert (some["devices"] + some["failures"] == 6).all() and 3 < some["failures"].sum() < 21
    assert some["bytes_down"].tolist() == whole["bytes_down"].tolist()
    assert (some["bytes_up"] / some["devices"]).tolist() == pytest.approx((whole["bytes_up"] / 6).tolist())
    alone = [read_rounds(tmp_path / name).query("method == 'la'")["accuracy_mean"].dropna() for name in ("all", "some")]
    assert alone[0].tolist() == alone[1].tolist()  # local adaptation sends no update
    assert play(tmp_path / "two", {**keys, "devices.dropout": 0.5}, workers=2) == lines
