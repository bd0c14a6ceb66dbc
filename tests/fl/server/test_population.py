"""A round costs what its clients cost, however many other clients exist."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from fl.config import Settings, SettingsError
from fl.devices.hardware import Table
from fl.engines.engine import GridProxy
from fl.messages import records
from fl.results.reader import read_devices, read_rounds
from partitions import World
from tests.fl.conftest import SMALL, resolved


@pytest.mark.parametrize("strategy", ["fedavg", "heterofl", "eclm"])
def test_nothing_is_computed_for_clients_that_do_not_take_part(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """50,000 clients, of which two rounds of 3 and a panel of 4 are ever looked at."""
    seen: dict[str, set[int]] = {"hardware": set(), "data": set(), "size": set()}
    hardware, data, size = Table.draw, World.draw, World.size

    def drawn(self, seed, client):
        seen["hardware"].add(client)
        return hardware(self, seed, client)

    def begun(self, client, step):
        seen["data"].add(client)
        return data(self, client, step)

    def measured(self, client):
        seen["size"].add(client)
        return size(self, client)

    monkeypatch.setattr(Table, "draw", drawn)
    monkeypatch.setattr(World, "draw", begun)
    monkeypatch.setattr(World, "size", measured)
    given = {"eclm.kappa2": 4} if strategy == "eclm" else {}  # its rule looks at the data of 500 clients, once
    play(tmp_path, {"strategies": strategy, "devices.count": 50_000, "rounds": 2, "eval.devices": 4, **given})
    assert all(4 <= len(clients) <= 10 for clients in seen.values())
    assert read_rounds(tmp_path).query("evaluated > 0").evaluated.unique().tolist() == [4]


def test_which_clients_are_scored_changes_no_score(play: Callable, tmp_path: Path) -> None:
    play(tmp_path / "all", {"strategies": "fedavg,eclm"})
    play(tmp_path / "some", {"strategies": "fedavg,eclm", "eval.devices": 2})
    whole, some = (read_devices(tmp_path / name) for name in ("all", "some"))
    panel = sorted(some.device.unique())
    assert len(panel) == 2
    assert some.to_dict("records") == whole[whole.device.isin(panel)].to_dict("records")


def test_more_clients_scored_than_there_are_is_refused() -> None:
    said = r"eval\.devices = 7 is more than there are clients \(devices\.count = 6\)"
    with pytest.raises(SettingsError, match=said):
        Settings.parse({**SMALL, "eval.devices": 7})


def test_clients_with_the_most_data_are_asked_first(play: Callable, tmp_path: Path) -> None:
    """FedAvg: all train the same model. After the first scores the server knows how much data a client has."""
    asked = []

    class Spied(GridProxy):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            sent = list(messages)
            asked.append([int(m.content[records.TASK]["device"]) for m in sent if m.metadata.message_type == "train"])
            return super().send_and_receive(sent, timeout=timeout)

    play(tmp_path, {"strategies": "fedavg", "cohort": 6}, wrap=Spied)
    size = resolved({"cohort": 6}).worlds(1).size
    trained = [clients for clients in asked if clients]
    assert trained[0] == [0, 1, 2, 3, 4, 5] and trained[2] != trained[0]
    assert [size(c) for c in trained[2]] == sorted(map(size, range(6)), reverse=True)
