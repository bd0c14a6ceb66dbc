"""Files of tensors come back as they were, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fl.workloads.state_file import read_state, write_state
from fl.workloads.state_store import ClientStateStore

STATE = {
    "w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3), "empty": torch.zeros(0, 2),
    "half": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor([True, False]),
}  # fmt: skip


def test_a_state_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path / "new" / "a.safetensors", STATE)
    back = read_state(tmp_path / "new" / "a.safetensors")
    assert back.keys() == STATE.keys() and all(torch.equal(back[name], value) for name, value in STATE.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_no_flipped_bit_gives_another_state(tmp_path: Path) -> None:
    """Whichever byte it is in: the header, a name, a shape, a value."""
    path = tmp_path / "a.safetensors"
    write_state(path, STATE)
    honest = path.read_bytes()
    for at in range(len(honest)):
        path.write_bytes(honest[:at] + bytes([honest[at] ^ 1 << at % 8]) + honest[at + 1 :])
        try:
            back = read_state(path)
        except Exception:
            continue
        assert back.keys() == STATE.keys() and all(torch.equal(back[name], value) for name, value in STATE.items())


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a")
    assert torch.equal(read_state(tmp_path / "a")["w"], torch.ones(2))


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "", ".x", "x" * 200, "a\0b"])
def test_a_client_keeps_nothing_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    """The name may be that of a record in a message."""
    store = ClientStateStore.of(tmp_path / "root", "1", "la", 0, 1, 4)
    with pytest.raises(ValueError, match="is no name of a state"):
        store.save(name, {"w": torch.ones(1)})
    assert list(tmp_path.rglob("*.safetensors")) == []
