"""A small data set: images of 6 classes x 6 domains, recorded in groups of 5."""

import numpy as np
import pytest

from partitions import Dataset


def make_toy(groups: bool = False, counts: tuple[int, ...] = (300,) * 6) -> Dataset:
    """Make ``counts`` training samples per class and a third as many test samples, spread evenly over 6 domains."""
    y = np.repeat(np.arange(len(counts)), counts)
    test = np.repeat(np.arange(len(counts)), [n // 3 for n in counts])
    domain = (np.arange(len(y)) // 5) % 6  # 5 successive samples share a domain and a group
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
def data_root(tmp_path, monkeypatch):
    """Return an empty data folder, and hide the data sets of this machine."""
    import partitions.root

    monkeypatch.delenv("DRIFTFED_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(partitions.root, "installed_folder", lambda: tmp_path / "installed")
    monkeypatch.setattr(partitions.root, "checkout_folder", lambda: tmp_path / "checkout")
    folder = tmp_path / "data"
    folder.mkdir()
    return folder
