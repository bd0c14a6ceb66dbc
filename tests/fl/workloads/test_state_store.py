"""What a client keeps between messages: it goes back with the server; a full disk or a damaged file does no harm."""

from pathlib import Path

import pytest
import torch

from fl.workloads.state_store import MOMENTS, ClientStateStore, StateMissing, forget

STATE = {"w": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16)}


def test_a_client_keeps_what_it_saved_until_the_run_is_forgotten(tmp_path: Path) -> None:
    mine, other = (ClientStateStore.of(tmp_path, "1", "la", 0, client, 4) for client in (5, 6))
    mine.save("model", STATE)
    assert torch.equal(mine.load("model")["w"], STATE["w"])
    with pytest.raises(StateMissing, match="client 6 has no model"):
        other.load("model")
    forget(tmp_path, "1")
    with pytest.raises(StateMissing):
        mine.load("model")


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    store = ClientStateStore.of(tmp_path, "1", "la", 0, 5, 4)
    store.save("model", STATE)
    path = store.folder / "model@4.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(store.Missing):
        store.load("model")


def test_a_client_goes_back_two_rounds(tmp_path: Path) -> None:
    """It trains in every round; the server was in round 5 and starts again after round 3, but no earlier."""

    def at(moment: int) -> ClientStateStore:
        return ClientStateStore.of(tmp_path, "1", "la", 0, 5, moment)

    def kept(store: ClientStateStore) -> float:
        return store.load("model")["w"].item()

    for round_ in range(1, 6):
        at(MOMENTS * round_ + 1).save("model", {"w": torch.tensor(float(round_))})
    assert kept(at(MOMENTS * 5 + 2)) == 5  # what it kept last
    assert kept(at(MOMENTS * 5)) == 4
    assert kept(at(MOMENTS * 4)) == 3
    with pytest.raises(StateMissing):
        at(MOMENTS * 3)
        kept(at(MOMENTS * 3))


def test_a_message_that_comes_twice_is_answered_alike(tmp_path: Path) -> None:
    for _ in range(2):
        store = ClientStateStore.of(tmp_path, "1", "la", 0, 5, 9)
        assert not store.holds("model")
        store.save("model", {"w": torch.ones(1)})
        assert store.holds("model")


@pytest.mark.parametrize("name", ["../1", "a/b", "", ".", "run 1"])
def test_no_message_can_name_a_folder_elsewhere(name: str, tmp_path: Path) -> None:
    for run, method in ((name, "la"), ("1", name)):
        with pytest.raises(ValueError, match="no name of a run or a method"):
            ClientStateStore.of(tmp_path, run, method, 0, 5, 4)
    with pytest.raises(ValueError, match="no name of a run or a method"):
        forget(tmp_path, name)


def test_a_client_whose_disk_is_full_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ClientStateStore.of(tmp_path, "1", "la", 0, 5, 4).save("model", {"w": torch.ones(1)})

    def full(state: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fl.workloads.state_file.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        ClientStateStore.of(tmp_path, "1", "la", 0, 5, 8).save("model", {"w": torch.zeros(1)})
    store = ClientStateStore.of(tmp_path, "1", "la", 0, 5, 8)
    assert store.load("model")["w"] == 1 and not list(tmp_path.rglob("*.tmp"))
