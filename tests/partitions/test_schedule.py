"""Drift schedules: their text and their steps."""

import pytest

from partitions import Schedule


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("every", [1, 2, 3, 4, 5, 6, 7]),
        ("every:3", [3, 6]),
        ("never", []),
        ("2,5", [2, 5]),
        ("5, 2", [2, 5]),
        ("4", [4]),
    ],
)
def test_steps(text, steps):
    schedule = Schedule(text)
    assert [step for step in range(8) if schedule.drifts(step)] == steps
    for now in range(8):
        assert schedule.count(now) == len([step for step in steps if step <= now])
        assert schedule.last(now) == max([step for step in steps if step <= now], default=0)


WRONG = ["", "always", "every:", "every:0", "every:-1", "every:x", "0", "0,3", "3,-1", "1;2", "2,"]


@pytest.mark.parametrize("text", WRONG)
def test_other_texts_are_rejected_with_the_allowed_forms(text):
    with pytest.raises(ValueError, match="is not 'every', 'every:3', 'never' or steps from 1 on like '2,5,9'"):
        Schedule(text)
