"""The list of registered SuperNodes."""

from pathlib import Path

import pytest

from fl.devices.registered import Registered, dumps, read


def test_the_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, nodes = tmp_path / "registered.json", {9: Registered("pi0", 3), 2**63 + 1: Registered("pi1")}
    assert read(path) == {}
    path.write_text(dumps(nodes))
    assert list(read(path).items()) == list(nodes.items())
    path.write_text('{"9": "pi0"}')  # as lists were before they had numbers
    assert read(path) == {9: Registered("pi0")}


@pytest.mark.parametrize("broken", ["{", "[]", '{"x": {"name": "pi0"}}', '{"9": {"names": "pi0"}}'])
def test_a_broken_list_is_one_sentence(broken: str, tmp_path: Path) -> None:
    (tmp_path / "registered.json").write_text(broken)
    with pytest.raises(ValueError, match=r"registered\.json cannot be read .*: restore it, or remove it"):
        read(tmp_path / "registered.json")
