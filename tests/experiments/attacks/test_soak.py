"""A short soak, and that the checks of a long one find leaks and lost rows."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from experiments.attacks.soak import FAULTS, FaultyGrid, Load, SoakFailed, _check, soak
from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.results.files import ResultsError
from fl.results.reader import read_rounds
from fl.server.aggregation import RoundAggregator
from fl.server.run import execute, open_results
from fl.workloads.resolve import resolve
from tests.fl.conftest import resolved


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("soak")
    events: list[tuple[str, int]] = []
    return out, soak(8, 24, 0.3, 1, out, lambda event, load: events.append((event.what, event.at))), events


def test_a_short_soak(soaked) -> None:
    """The server crashes and continues; every kind of fault occurs, is counted, and does not end the run."""
    out, got, events = soaked
    rounds = read_rounds(out)
    assert set(got.faults) == set(FAULTS) and got.crashes > 0
    assert Counter(events).most_common(1)[0][1] == 1  # a round that was reported is not run again
    assert rounds.refused.sum() > 10 and rounds.failures.sum() > 10
    assert rounds.accuracy_mean.dropna().gt(0.2).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_replies_are_spoiled_where_they_are_aggregated(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults occur on the default path too: with two workers, this process never adds an update itself."""
    run = resolved({"strategies": "fedavg", "cohort": 6, "rounds": 3, "rounds-per-step": 3})
    no_crash = {("fedavg", moment) for moment in range(100)}

    def play(rate: float | None) -> pd.DataFrame:
        out = tmp_path / str(rate)
        with open_results([run], out, False) as results, LocalGrid(run.settings.flat(), 6, workers) as grid:
            execute(run, grid if rate is None else FaultyGrid(grid, rate, Counter(), no_crash), results)
        return read_rounds(out).query("method == 'fedavg'").drop(columns="wall_s")

    plain = play(None)
    if workers == 2:
        monkeypatch.setattr(RoundAggregator, "add", lambda *_: pytest.fail("added in the server"))
    pd.testing.assert_frame_equal(play(0.0), plain)
    assert not (plain.refused.any() or plain.failures.any())
    faulty = play(0.4)
    assert faulty.refused.sum() > 0 and faulty.failures.sum() > 0 and (faulty.devices < 6).any()


def double(rounds: Path) -> None:
    lines = rounds.read_text().splitlines()
    rounds.write_text("\n".join([*lines[:-1], lines[-2]]) + "\n")


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda out: double(out / "rounds.csv"), "row twice"),
        (lambda out: (out / "checkpoints").mkdir(), "left behind"),
        (lambda out: None, "memory grew"),
    ],
    ids=["rows", "files", "memory"],
)
def test_leaks_and_lost_rows_are_found(soaked, tmp_path: Path, break_, message: str) -> None:
    out = soaked[0]
    for name in ("rounds.csv", "config.toml"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    break_(tmp_path)
    run = resolve(Settings.parse({"strategies": "fedavg,la,eclm", "rounds": 24}))
    leaking = {"eclm": [Load(int(1e6 * at), 5, 0) for at in range(80)]}
    with pytest.raises((SoakFailed, ResultsError), match=message):
        _check(run, tmp_path, leaking, Load(0, 10**6, 0), [])
