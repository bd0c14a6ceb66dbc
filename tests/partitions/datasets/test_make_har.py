"""The script that made ``har.json``; its input is not in the repository, so only its steps are tested."""

import base64
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def make_har():
    path = Path(__file__).parents[3] / "data" / "har" / "make_har.py"
    spec = importlib.util.spec_from_file_location("make_har", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uneven_times_become_an_even_grid(make_har):
    time_s = np.array([0, 0, 0.013, 0.02, 0.041, 0.06, 0.06, 0.1])
    x, label = make_har.resample(time_s, np.stack([time_s, 2 * time_s], axis=1), (time_s >= 0.04).astype(int))
    middle = np.arange(5) * 0.02 + 0.005  # a grid point is the mean of two points 10 ms apart
    assert np.allclose(x, np.stack([middle, 2 * middle], axis=1))
    assert label.tolist() == [0, 0, 1, 1, 1]


def test_the_same_three_of_ten_executions_are_always_for_the_test(make_har):
    executions = np.arange(1, 11)
    chosen = make_har.choose_test_executions(7, executions)
    assert len(chosen) == 3 and chosen == make_har.choose_test_executions(7, executions)
    assert len({frozenset(make_har.choose_test_executions(subject, executions)) for subject in range(20)}) > 10


def test_a_complete_file(make_har, tmp_path):
    n = 400  # two placements x two executions x one second at 100 Hz
    source = {
        "x": np.linspace(-50, 50, n * 6).reshape(n, 6).astype(np.float32),
        "label": np.arange(n) % 2,
        "subject": np.ones(n, int),
        "device": np.repeat([0, 1], 200),
        "execution": np.tile(np.repeat([1, 2], 100), 2),
        "time_ms": np.tile(np.arange(100) * 10, 4),
        "label_names": np.array(["A", "B"]),
    }
    np.savez(tmp_path / "in.npz", **source)
    make_har.main(str(tmp_path / "in.npz"), str(tmp_path / "out.json"))
    packed = json.loads((tmp_path / "out.json").read_text())["npz"]
    made = np.load(io.BytesIO(base64.b64decode(packed)))
    assert made["runs"][:, :4].tolist() == [[1, 0, 1, 49], [1, 0, 2, 49], [1, 1, 1, 49], [1, 1, 2, 49]]
    assert made["runs"][:2, 4].tolist() == made["runs"][2:, 4].tolist() and made["runs"][:, 4].sum() == 2
    physical = made["series"][0] * made["scale"]
    assert np.allclose(physical, source["x"][:2].mean(axis=0), atol=0.002)
