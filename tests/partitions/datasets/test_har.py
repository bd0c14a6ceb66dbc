"""The shipped recordings of human activity: their content, and a world of devices with them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from partitions import DRIFTS, PARTITIONS, World, load
from partitions.datasets.activity import har_embedded
from partitions.datasets.activity.har_embedded import features, windows


@pytest.fixture(scope="module")
def har():
    return load("har-embedded")


def test_content(har):
    assert (har.x_train.shape, har.x_test.shape) == ((9832, 166), (4368, 166)) and har.x_train.dtype == np.float32
    assert har.classes == ("seated", "sitting-down", "standing-up", "turning", "walking")
    assert len(har.domains) == 46 and har.domains[:2] == ("person-01-phone", "person-01-watch")
    train, test = np.bincount(har.domain_train, minlength=46), np.bincount(har.domain_test, minlength=46)
    assert (np.abs(test / (train + test) - 0.3) < 0.08).all()
    for split, domain in (("train", har.domain_train), ("test", har.domain_test)):
        assert (
            len(set(zip(domain, har.labels(split), strict=True))) >= 46 * 5 - 3
        )  # nearly all domains have all activities
    assert har.x_train.mean(axis=0) == pytest.approx(np.zeros(166), abs=1e-3)
    assert np.isfinite(har.x_train).all() and np.isfinite(har.x_test).all()


def test_a_run_is_in_one_domain_and_one_part(har):
    from partitions.root import Root

    runs = har_embedded.recordings(har_embedded.HarEmbedded().require(Root.at()))["runs"]
    assert not runs[np.unique(har.group_train), 4].any()  # training windows come from training runs only
    assert len(np.unique(np.stack([har.group_train, har.domain_train]), axis=1).T) == len(np.unique(har.group_train))
    together = {tuple(row) for row in runs[:, [0, 2, 4]]}
    assert len(together) == len({row[:2] for row in together})  # phone and watch of one execution are in the same part


def least_squares(x, y):
    return np.linalg.lstsq(np.c_[x, np.ones(len(x))], np.eye(5)[y], rcond=None)[0]


def accuracy(weights, x, y):
    return ((np.c_[x, np.ones(len(x))] @ weights).argmax(axis=1) == y).mean()


def test_it_can_be_learned_and_placements_differ(har):
    weights = least_squares(har.x_train, har.y_train)
    assert accuracy(weights, har.x_test, har.y_test) > 0.8
    phone, phone_test = har.domain_train % 2 == 0, har.domain_test % 2 == 0
    weights = least_squares(har.x_train[phone], har.y_train[phone])
    same = accuracy(weights, har.x_test[phone_test], har.y_test[phone_test])
    assert same > 0.8 and accuracy(weights, har.x_test[~phone_test], har.y_test[~phone_test]) < same - 0.2


def test_windows_by_hand():
    label = np.repeat([0, 1, 2, 0], [64, 16, 24, 40])  # runs of 80 and of 64 points: two windows and one
    series = np.arange(144.0)[:, None]
    window, y, run = windows(series, label, np.array([80, 64]), 3)
    assert window[:, 0, 0].tolist() == [0, 16, 80] and y.tolist() == [0, 0, 0] and run.tolist() == [0, 0, 1]
    assert (
        len(windows(series, label * 0, np.array([63, 81]), 3)[0]) == 2
    )  # one run is too short, the other has two windows


def test_a_window_without_a_majority_is_dropped():
    label = np.repeat([0, 1, 2], [22, 21, 21])
    assert len(windows(np.zeros((64, 1)), label, np.array([64]), 3)[0]) == 0


def test_features_by_hand():
    window = np.zeros((1, 64, 6))
    window[0, :, 0] = 3
    window[0, :, 1] = 4
    x = features(window)[0]
    assert x.shape == (166,) and x[:8].tolist() == [3, 4, 0, 0, 0, 0, 5, 0]  # means; the magnitude of 3 and 4 is 5
    assert x[8:16] == pytest.approx(np.full(8, np.log(0.01)), abs=1e-4)  # no motion
    window[0, :, 2] = np.cos(2 * np.pi * 3 * np.arange(64) / 64)  # 2.3 Hz is in the third band
    bands = features(window)[0][104:160].reshape(7, 8)
    assert bands[:, 2].argmax() == 2 and bands[2, 2] == pytest.approx(np.log(64 / 4 + 0.01), abs=1e-3)


SCRIPT = """
from partitions import DRIFTS, PARTITIONS, World, load
w = World(load("har-embedded"), PARTITIONS["subject"](), DRIFTS["subject"](), 5)
for device, step in ((31, 3), (2, 0), (2, 4)):
    draw = w.draw(device, step)
    print(len(draw.train), draw.train @ range(len(draw.train)), len(draw.test), draw.test @ range(len(draw.test)))
"""


def test_another_process_draws_the_same(har):
    w = World(har, PARTITIONS["subject"](), DRIFTS["subject"](), 5)
    expected = []
    for device, step in ((2, 0), (2, 4), (31, 3)):  # in another order
        train, test = w.draw(device, step).train, w.draw(device, step).test
        expected.append(f"{len(train)} {train @ range(len(train))} {len(test)} {test @ range(len(test))}")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [expected[2], expected[0], expected[1]]


def test_the_proxy_contains_complete_runs_of_every_domain(har):
    w = World(har, PARTITIONS["subject"](), DRIFTS["none"](), 5)
    assert not set(har.group_train[w.proxy()]) & set(har.group_train[w.pool()])
    share = np.bincount(har.domain_train[w.proxy()], minlength=46) / np.bincount(har.domain_train)
    assert 0.28 < len(w.proxy()) / len(har.y_train) < 0.32 and share.min() > 0.1 and share.max() < 0.5


def test_importing_and_loading_does_not_import_torch():
    code = "import sys, partitions; partitions.load('har-embedded'); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_cache_contains_what_was_built(tmp_path, monkeypatch):
    from partitions.root import Root

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = har_embedded.HarEmbedded().require(Root.at())
    built = har_embedded.build(path)
    for _ in range(2):  # built and stored, then read
        arrays, names = har_embedded.cached(path)
        assert names == built[1]
        assert arrays.keys() == built[0].keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, built[0][key], strict=True)
        monkeypatch.setattr(har_embedded, "build", None)
    (tmp_path / "none").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))  # the cache cannot be written
    monkeypatch.setattr(har_embedded, "build", lambda path: built)
    assert har_embedded.cached(path) == built
