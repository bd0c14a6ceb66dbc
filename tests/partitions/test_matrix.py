"""Matrices in text files: a line for each step, a column for each device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.errors import DataError
from partitions.matrix import read_matrix


@given(
    st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(st.integers(0, 99), min_size=n, max_size=n), min_size=1)),
    st.sampled_from([" ", ",", "\t", ", "]),
    st.sampled_from(["\n", "\r\n", "\n\n", " # a comment\n"]),
)
def test_the_numbers_of_a_file_are_read_as_written(tmp_path_factory, rows, between, end):
    file = tmp_path_factory.mktemp("matrix") / "concepts.cp"
    file.write_bytes(("# by hand\n" + "".join(between.join(map(str, row)) + end for row in rows)).encode())
    matrix = read_matrix(str(file))
    assert matrix.values.tolist() == rows
    assert all(matrix.at(*at) == rows[at[0]][at[1]] for at in np.ndindex(len(rows), len(rows[0])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no numbers"),
        (b"# nothing\n\n", "holds no numbers"),
        (b"0 1\n0 x\n", "line 2, column 2: 'x' is not a whole number from 0 to 999"),
        (b"0 1\n\n0 -1\n", "line 3, column 2: '-1' is not"),
        (b"0 1.0\n", "'1.0' is not"),
        (b"0,,1\n", "line 1, column 2: '' is not"),
        (b"0 1000\n", "'1000' is not"),
        ("0 ٣\n".encode(), "is not a whole number"),
        (b"0 1\n0 1 2\n", "line 2: it has 3 numbers, and the lines before have 2"),
        (b"\xff\xfe0\x001\n", r"cannot be read \(it is no text\)"),
    ],
)
def test_a_damaged_file_is_one_sentence_with_its_line(tmp_path, content, message):
    (tmp_path / "c.cp").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_matrix(str(tmp_path / "c.cp"))
    assert str(tmp_path / "c.cp") in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path):
    for path in (tmp_path / "none.cp", tmp_path):
        with pytest.raises(DataError, match="cannot be read .*: name a file"):
            read_matrix(str(path))


def test_a_file_that_is_too_small_says_what_to_add(tmp_path):
    (tmp_path / "c.cp").write_text("0 1\n1 1\n")
    matrix = read_matrix(str(tmp_path / "c.cp"))
    with pytest.raises(DataError, match="has 2 columns, .* device 2 needs column 3: add columns, or set devices.count"):
        matrix.at(0, 2)
    with pytest.raises(DataError, match="has 2 lines, and line 3 is needed: add lines"):
        matrix.at(2, 0)


def test_a_changed_file_is_read_again(tmp_path):
    import os

    file = tmp_path / "c.cp"
    file.write_text("0 1\n")
    before = read_matrix(str(file))
    file.write_text("1 0\n")
    os.utime(file, ns=(1, 1))
    after = read_matrix(str(file))
    assert (before.at(0, 0), after.at(0, 0)) == (0, 1) and before.digest != after.digest
