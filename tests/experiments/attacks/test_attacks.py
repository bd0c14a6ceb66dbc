"""Each attack at a tiny size, and that attacks find planted faults."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from experiments.attacks import ATTACKS, find, kills
from experiments.attacks.kills import Target
from experiments.cli.attack import AttackFailed, attack
from fl.server.aggregation import RoundAggregator
from fl.workloads.state_store import ClientStateStore

TINY = {"replies": 100, "full-disk": 2, "damage": 6, "servers": 100, "crowd": 1}
COMMANDS = ("kill-main", "writers")  # these start processes; the attacks that are left out need Ray or Flower


@pytest.mark.parametrize("name", [*TINY, *COMMANDS])
def test_what_is_attacked_survives(name: str, tmp_path: Path) -> None:
    found = find(name).run(TINY.get(name, 1), 7, tmp_path, lambda text: None)
    assert found.tries >= 1 and found.survived == found.tries and not found.faults
    assert found.seen["kills"] or not name.startswith("kill-")


def test_an_attack_that_kills_nothing_has_not_been_survived(tmp_path: Path) -> None:
    nobody = Target("local", lambda command, processes: [], misses=1)
    found = kills.attack(nobody, 1, 7, tmp_path, lambda text: None)
    assert found.survived == 0 and found.faults == ["try 0 of seed 7: nothing could be killed"]


def test_every_attack_has_a_size_for_each_scale() -> None:
    for name in ATTACKS:
        assert set(find(name).sizes) == {"smoke", "full"} and find(name).about


def forgetful(self: RoundAggregator, part: object) -> None:
    """The server loses what a worker aggregated."""


def careless(root: Path, *values: object, of: Callable = ClientStateStore.of) -> ClientStateStore:
    """A client writes beside its state folder."""
    (root.parent / "elsewhere").write_text("")
    return of(root, *values)


def uncaught(what: str) -> nullcontext[None]:
    """An error of the disk is a traceback."""
    return nullcontext()


def keeping(*values: object) -> None:
    """What clients kept stays."""


@pytest.mark.parametrize(
    ("name", "size", "owner", "attribute", "fault"),
    [
        ("replies", 100, RoundAggregator, "merge", forgetful),
        ("servers", 8, ClientStateStore, "of", careless),
        ("full-disk", 2, "fl.results.writer", "as_results_error", uncaught),
        ("damage", 2, "fl.server.run", "forget", keeping),
    ],
)
def test_a_planted_fault_is_found(
    name: str, size: int, owner: object, attribute: str, fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And named; the command fails, and its file has the figures."""
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{attribute}", fault)
    else:
        monkeypatch.setattr(owner, attribute, fault)
    with pytest.raises(AttackFailed, match=f"{name}: .* of seed 7"):
        attack([name], "smoke", size, 7, tmp_path)
    (row,) = pd.read_csv(tmp_path / "attacks.csv").itertuples()
    assert row.attack == name and row.faults > 0 and row.survived < row.tries
