"""Which devices are online in a round: by hand and by laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import DataError
from partitions.availability import AVAILABILITY, Diurnal, Trace

TRACE = "1 0 1\n0 0 0\n1,1,1\n".replace(",", " ")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "trace.csv").write_text(TRACE)
    return str(tmp_path / "trace.csv")


def test_a_trace_is_followed_line_by_line_and_begins_anew(file):
    trace = Trace(file=file)
    online = [np.arange(3)[trace.online(7, r, np.arange(3))].tolist() for r in range(1, 8)]
    assert online == [[0, 2], [], [0, 1, 2], [0, 2], [], [0, 1, 2], [0, 2]]


@given(
    seed=st.integers(0, 9999), period=st.integers(2, 30), share=st.sampled_from([0.5, 0.75, 1]),
    spread=st.sampled_from([0, 0.3, 1]), some=st.lists(st.integers(0, 99), min_size=1, unique=True),
)  # fmt: skip
def test_each_device_is_online_for_its_share_of_every_day_at_the_same_time(seed, period, share, spread, some):
    model, devices = Diurnal(period=period, share=share, spread=spread), np.arange(100)
    day = np.array([model.online(seed, r, devices) for r in range(1, period + 1)])
    assert (day.sum(axis=0) == round(share * period)).all()
    for r in (1, period, 2 * period + 1):
        assert (model.online(seed, r, np.array(some)) == day[(r - 1) % period, some]).all()
    if not spread:
        assert day[0].all() and (day == day[:, :1]).all()
    changes = (day != np.roll(day, 1, axis=0)).sum(axis=0)
    assert set(changes.tolist()) <= {0, 2}  # one time online in a day


def test_always_is_always():
    assert AVAILABILITY["always"]().online(1, 3, np.arange(5)).all()


def test_impossible_availability_is_one_sentence(file, tmp_path):
    with pytest.raises(ValueError, match="trace.file is empty: name a file"):
        Trace().check(3)
    with pytest.raises(DataError, match="has 3 columns.*device 3 needs column 4: add columns"):
        Trace(file=file).check(4)
    (tmp_path / "trace.csv").write_text("1 2 1\n")
    with pytest.raises(DataError, match="trace.csv, line 1, column 2: '2' is not a whole number from 0 to 1"):
        Trace(file=file).check(3)
    with pytest.raises(ValueError, match="diurnal.share = 0.1 of diurnal.period = 3 rounds is less than one round"):
        Diurnal(period=3, share=0.1).check(3)
