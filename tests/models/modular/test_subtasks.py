"""Sub-tasks of co-occurring classes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.modular.subtasks import co_occurring


def test_classes_that_always_occur_together_form_one_subtask() -> None:
    pairs = np.array([[0, 3], [1, 4], [2, 5]])
    counts = np.zeros((9, 6))
    counts[np.arange(9)[:, None], pairs[np.arange(9) % 3]] = 50
    assert co_occurring(counts).tolist() == [0, 1, 2, 0, 1, 2]


def test_a_class_joins_the_subtask_with_which_it_occurs_most() -> None:
    counts = np.array([[9, 9, 0, 0], [9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 9, 9], [0, 0, 9, 9], [0, 9, 9, 0]])
    assert co_occurring(counts).tolist() == [0, 0, 1, 1]


@given(data=st.data(), classes=st.integers(2, 12), clients=st.integers(1, 20))
def test_every_class_has_one_subtask(data: st.DataObject, classes: int, clients: int) -> None:
    """For any counts, including classes without samples."""
    seed = data.draw(st.integers(0, 2**31))
    g = np.random.default_rng(seed)
    counts = g.integers(0, 30, (clients, classes)) * (g.random((clients, classes)) < 0.4)
    counts[np.arange(clients), g.integers(classes, size=clients)] += 1
    groups = co_occurring(counts)
    assert groups[0] == 0 and sorted(set(groups.tolist())) == list(range(groups.max() + 1))
    assert 2 <= groups.max() + 1 <= classes
