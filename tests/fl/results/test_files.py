"""Whole files, cells and text: what every file of a results folder is written with."""

from pathlib import Path

import numpy as np
import pytest

from fl.results.files import ResultsError, as_results_error, atomic_write, cell, config_text, whole_lines


def test_atomic_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.csv"
    atomic_write(path, "old")

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_cell_is_the_same_for_numbers_of_python_and_numpy():
    for same, text in {(3, np.int64(3)): "3", (0.1 + 0.2, np.float64(0.3)): "0.3", (float("nan"), np.nan): ""}.items():
        assert [cell(value) for value in same] == [text] * len(same)
    with pytest.raises(ResultsError, match="text or a number, not None"):
        cell(None)


def test_lists_of_plain_values_are_on_one_line_in_nested_tables_too():
    text = config_text({"seeds": [0, 1], "settings": {"m=2": {"rounds": 4, "data": {"sizes": [1, 2], "name": "har"}}}})
    assert text == (
        'seeds = [0, 1]\n\n[settings."m=2"]\nrounds = 4\n\n[settings."m=2".data]\nsizes = [1, 2]\nname = "har"\n'
    )


def test_a_line_without_an_end_is_left_out(tmp_path):
    (tmp_path / "rounds.csv").write_bytes(b"a,b\n1,2\n3")
    assert whole_lines(tmp_path / "rounds.csv") == ["a,b\n", "1,2\n"]


def test_an_error_of_the_system_says_what_failed_and_what_to_do():
    expected = "cannot write 'x': No space left on device; .* repeat the same command"
    with pytest.raises(ResultsError, match=expected), as_results_error("write 'x'"):
        raise OSError(28, "No space left on device")
