"""A round costs what its devices cost, however many there are beside them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fl.config.settings import Settings, SettingsError
from fl.devices.hardware import Table
from fl.engines.grid import WorkerGrid
from fl.messages import records as wire
from fl.results.reader import read_devices, read_rounds
from fl.workloads.world import world
from partitions import World
from tests.fl.conftest import SMALL


@pytest.mark.parametrize("strategy", ["fedavg", "heterofl", "eclm"])
def test_nothing_is_computed_for_devices_that_do_not_take_part(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """50,000 devices, of which two rounds of 3 and a panel of 4 are ever looked at."""
    seen: dict[str, set[int]] = {"hardware": set(), "data": set()}
    draw, first = Table.draw, World._first

    def drawn(self, seed, device):
        seen["hardware"].add(device)
        return draw(self, seed, device)

    def begun(self, device):
        seen["data"].add(device)
        return first(self, device)

    monkeypatch.setattr(Table, "draw", drawn)
    monkeypatch.setattr(World, "_first", begun)
    play(tmp_path, strategies=strategy, **{"devices": 50_000, "rounds": 2, "eval-devices": 4})
    assert 4 <= len(seen["hardware"]) <= 10 and 4 <= len(seen["data"]) <= 10
    assert read_rounds(tmp_path).query("evaluated > 0").evaluated.unique().tolist() == [4]


def test_who_is_scored_changes_no_score(play: Callable, tmp_path: Path) -> None:
    play(tmp_path / "all", strategies="fedavg,eclm")
    play(tmp_path / "some", strategies="fedavg,eclm", **{"eval-devices": 2})
    whole, some = (read_devices(tmp_path / name) for name in ("all", "some"))
    panel = sorted(some.device.unique())
    assert len(panel) == 2
    assert some.to_dict("records") == whole[whole.device.isin(panel)].to_dict("records")


def test_more_scored_than_there_are_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"eval-devices = 7 is more than there are devices \(6\)"):
        Settings.parse({**SMALL, "eval-devices": 7})


def test_those_with_the_most_data_are_asked_first(play: Callable, tmp_path: Path, monkeypatch) -> None:
    """FedAvg: all train the same model. After the first scores the cloud knows how much data a device has."""
    asked, exchange = [], WorkerGrid._exchange

    def spied(self, messages, fold):
        asked.append([int(m.content[wire.TASK]["device"]) for m in messages if m.metadata.message_type == "train"])
        return exchange(self, messages, fold)

    monkeypatch.setattr(WorkerGrid, "_exchange", spied)
    play(tmp_path, strategies="fedavg", **{"cohort": 6})
    size = world(Settings.parse({**SMALL, "cohort": 6}), 1).size
    trained = [devices for devices in asked if devices]
    assert trained[0] == [0, 1, 2, 3, 4, 5] and trained[2] != trained[0]
    assert [size(d) for d in trained[2]] == sorted(map(size, range(6)), reverse=True)
