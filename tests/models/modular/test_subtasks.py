import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.modular.subtasks import co_occurring


def test_classes_that_are_always_together_are_one_subtask() -> None:
    pairs = np.array([[0, 3], [1, 4], [2, 5]])
    counts = np.zeros((9, 6))
    counts[np.arange(9)[:, None], pairs[np.arange(9) % 3]] = 50
    assert co_occurring(counts).tolist() == [0, 1, 2, 0, 1, 2]


def test_a_class_that_joins_others_now_and_then_goes_where_it_is_seen_most() -> None:
    counts = np.array([[9, 9, 0, 0], [9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 9, 9], [0, 0, 9, 9], [0, 9, 9, 0]])
    assert co_occurring(counts).tolist() == [0, 0, 1, 1]


@given(data=st.data(), classes=st.integers(2, 12), devices=st.integers(1, 20))
def test_every_class_has_one_subtask_whatever_devices_hold(data: st.DataObject, classes: int, devices: int) -> None:
    """Also a class that nobody holds."""
    seed = data.draw(st.integers(0, 2**31))
    g = np.random.default_rng(seed)
    counts = g.integers(0, 30, (devices, classes)) * (g.random((devices, classes)) < 0.4)
    counts[np.arange(devices), g.integers(classes, size=devices)] += 1
    groups = co_occurring(counts)
    assert groups[0] == 0 and sorted(set(groups.tolist())) == list(range(groups.max() + 1))
    assert 2 <= groups.max() + 1 <= classes
