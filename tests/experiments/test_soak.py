"""A short soak; and that the checks of a long one would see what they are for."""

from collections import Counter
from pathlib import Path

import pytest

from experiments.soak import FAULTS, Load, SoakFailed, _check, soak
from fl.config.settings import Settings
from fl.results.reader import read_rounds


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("soak")
    events: list[tuple[str, int]] = []
    return out, soak(8, 24, 0.3, 1, out, lambda event, load: events.append((event.what, event.at))), events


def test_a_short_soak(soaked) -> None:
    """The cloud breaks down and goes on; every kind of fault occurs, is counted, and ends nothing."""
    out, got, events = soaked
    rounds = read_rounds(out)
    assert set(got.faults) == set(FAULTS) and got.breakdowns > 0
    assert Counter(events).most_common(1)[0][1] == 1  # a round that is told of is not run again
    assert rounds.refused.sum() > 10 and rounds.failures.sum() > 10
    assert rounds.accuracy_mean.dropna().gt(0.2).all()


def double(rounds: Path) -> None:
    lines = rounds.read_text().splitlines()
    rounds.write_text("\n".join([*lines[:-1], lines[-2]]) + "\n")


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda out: double(out / "rounds.csv"), "rows"),
        (lambda out: (out / "checkpoints").mkdir(), "left behind"),
        (lambda out: None, "memory grew"),
    ],
    ids=["rows", "files", "memory"],
)
def test_what_piles_up_or_is_lost_is_seen(soaked, tmp_path: Path, break_, said: str) -> None:
    out = soaked[0]
    for name in ("rounds.csv", "config.toml"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    break_(tmp_path)
    settings = Settings.parse({"strategies": "fedavg,la,eclm", "rounds": 24})
    leaking = {"eclm": [Load(int(1e6 * at), 5, 0) for at in range(80)]}
    with pytest.raises(SoakFailed, match=said):
        _check(settings, tmp_path, leaking, Load(0, 10**6, 0), [])
