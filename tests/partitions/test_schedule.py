"""Drift schedules: their text and their steps."""

import pytest

from partitions import DataError, Schedule


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
    with pytest.raises(
        ValueError, match="is not 'every', 'every:3', 'never', steps from 1 on like '2,5,9', or 'table:FILE'"
    ):
        Schedule(text)


@pytest.mark.parametrize("text", ["every:3", "2,5", "never"])
def test_each_group_drifts_some_steps_after_the_group_before(text):
    every, staggered = Schedule(text), Schedule(text, groups=3, stagger=2)
    for device in range(6):
        own = staggered.of(device)
        for step in range(14):
            then = step - device % 3 * 2
            assert own.drifts(step) == every.drifts(then) and own.count(step) == every.count(then)
            assert own.last(step) == max((s for s in range(step + 1) if own.drifts(s)), default=0)


def test_a_table_says_at_which_steps_each_device_drifts(tmp_path):
    file = tmp_path / "drifts.csv"
    file.write_text("# step 0\n0,0\n1,0\n0,0\n1,1\n")
    schedule = Schedule(f"table:{file}")
    steps = [[step for step in range(9) if schedule.of(device).drifts(step)] for device in range(2)]
    assert steps == [[1, 3], [3]] and schedule.of(0).count(2) == 1 and schedule.of(1).last(8) == 3
    with pytest.raises(DataError, match="drifts.csv has 2 columns, .* device 2 needs column 3: add columns"):
        schedule.of(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 0\n0 1\n", "first line of .*drifts.csv is step 0, the start, at which no data drift: write 0 there"),
        ("0 0\n0 2\n", "drifts.csv, line 2, column 2: '2' is not a whole number from 0 to 1"),
    ],
)
def test_other_tables_are_rejected_with_file_and_line(tmp_path, content, message):
    (tmp_path / "drifts.csv").write_text(content)
    with pytest.raises((ValueError, DataError), match=message):
        Schedule(f"table:{tmp_path / 'drifts.csv'}")


@pytest.mark.parametrize(("values", "message"), [((0, 0), "1 or more"), ((1, 2), "set drift.groups to 2 or more")])
def test_impossible_groups_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        Schedule("every", *values)
