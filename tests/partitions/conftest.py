"""A small world to draw from: pictures of 6 classes x 6 domains, recorded in groups of 5."""

import numpy as np
import pytest

from partitions import Dataset


def make_toy(groups: bool = False, counts: tuple[int, ...] = (300,) * 6) -> Dataset:
    """``counts`` train samples per class, a third as many in test, spread evenly over 6 domains."""
    y = np.repeat(np.arange(len(counts)), counts)
    test = np.repeat(np.arange(len(counts)), [n // 3 for n in counts])
    domain = (np.arange(len(y)) // 5) % 6  # 5 neighbours share a domain, and a group
    x = np.broadcast_to(np.arange(len(y), dtype=np.float32)[:, None, None, None], (len(y), 1, 8, 8))
    return Dataset(
        "toy",
        x,
        y,
        x[: len(test)],
        test,
        classes=tuple("abcdef"[: len(counts)]),
        domain_train=domain,
        domain_test=np.arange(len(test)) % 6,
        domains=tuple("uvwxyz"),
        group_train=np.arange(len(y)) // 5 if groups else None,
    )


@pytest.fixture(scope="session")
def toy() -> Dataset:
    return make_toy()


@pytest.fixture(scope="session")
def toy_maker():
    return make_toy


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No data set but what the test puts into the folder returned; the search sees nothing of this machine."""
    import partitions.root

    monkeypatch.delenv("DRIFTFED_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(partitions.root, "installed", lambda: tmp_path / "installed")
    monkeypatch.setattr(partitions.root, "checkout", lambda: tmp_path / "checkout")
    place = tmp_path / "data"
    place.mkdir()
    return place
