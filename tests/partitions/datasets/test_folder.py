"""The user's own data: format and order of the files, and messages about errors in them."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from partitions import DATASETS, DataError, Dataset, LocalData
from partitions.root import Root


def load(folder: Path) -> Dataset:
    return DATASETS["folder"].load(Root.at(folder))


def put(folder: Path, name: str, values: range, y: int = 0) -> None:
    """Write a file of samples; sample i contains the number i."""
    x = np.array(values, np.float32)[:, None] * np.ones((1, 3), np.float32)
    np.savez(folder / name, x=x, y=np.full(len(x), y))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.txt").write_text("sit\nwalk\nrun\n\n")
    return tmp_path


def test_samples_are_in_the_order_of_arrival_and_every_fifth_is_for_the_test(folder) -> None:
    put(folder, "2026-01-02.npz", range(7, 12), y=2)
    put(folder, "2026-01-01.npz", range(7), y=1)
    data = load(folder)
    assert data.classes == ("sit", "walk", "run")
    assert data.x_train[:, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert data.x_test[:, 0].tolist() == [4, 9]
    assert data.y_train.tolist() == [1] * 6 + [2] * 4
    assert data.y_test.tolist() == [1, 2]
    assert (data.x_train.dtype, data.y_train.dtype, data.input_shape) == (np.float32, np.int64, (3,))


def test_a_machine_uses_its_newest_samples_and_notices_new_files(folder) -> None:
    put(folder, "a.npz", range(10))
    here = LocalData(load(folder), samples=4, test_samples=1)
    draw = here.draw(device=7, step=3)
    assert here.data.x_train[draw.train, 0].tolist() == [5, 6, 7, 8]
    assert here.data.x_test[draw.test, 0].tolist() == [9]
    assert here.proxy().tolist() == list(range(8))

    put(folder, "b.npz.part", range(10, 15))  # numpy adds .npz; files with other suffixes are ignored
    (folder / "b.npz.part.npz").rename(folder / "b.part")
    assert len(load(folder).y_train) == 8
    (folder / "b.part").rename(folder / "b.npz")
    here = LocalData(load(folder), samples=4, test_samples=1)
    draw = here.draw(device=7, step=3)
    assert here.data.x_train[draw.train, 0].tolist() == [10, 11, 12, 13]
    assert here.data.x_test[draw.test, 0].tolist() == [14]
    assert len(LocalData(here.data, samples=100, test_samples=100).draw(0, 0).train) == 12


def test_pixels_stay_bytes_and_are_normalised_on_use(folder) -> None:
    x = np.full((5, 1, 2, 2), 51, np.uint8)
    np.savez(folder / "a.npz", x=x, y=np.zeros(5, np.int32))
    data = load(folder)
    assert data.x_train.dtype == np.uint8
    np.testing.assert_allclose(data.inputs("train"), 0.2)


def test_a_reader_for_another_format(folder) -> None:
    (folder / "walk.log").write_text("1 2 3 4 5 6")
    (folder / "reader.py").write_text(
        "import numpy as np\n\n\ndef read(folder):\n    x = np.loadtxt(folder / 'walk.log')[:, None]\n"
        "    return x, np.ones(len(x), int)\n"
    )
    data = load(folder)
    assert data.x_train[:, 0].tolist() == [1, 2, 3, 4, 6]
    assert data.x_test[:, 0].tolist() == [5]
    assert data.y_train.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((6, 3))}, "a.npz is damaged or lacks x or y"),
        ({"x": np.zeros((6, 3)), "y": np.zeros(5, int)}, "are not n samples and n integers"),
        ({"x": np.zeros((6, 3)), "y": np.zeros(6)}, "float64 are not n samples and n integers"),
        ({"x": np.zeros((6, 3)), "y": np.full(6, 3)}, "y is 3 to 3, and classes.txt has lines 0 to 2"),
        ({"x": np.zeros((6, 3)), "y": np.full(6, -1)}, "y is -1 to -1"),
        ({"x": np.full((6, 3), np.nan), "y": np.zeros(6, int)}, "not finite"),
        ({"x": np.full((6, 3), 1e39), "y": np.zeros(6, int)}, "not finite"),
        ({"x": np.zeros((6, 3), complex), "y": np.zeros(6, int)}, "holds no numbers: give float32"),
        ({"x": np.zeros((6, 0)), "y": np.zeros(6, int)}, "holds no numbers"),
        ({"x": np.full((6, 3), "a"), "y": np.zeros(6, int)}, "holds no numbers"),
        ({"x": np.zeros((6, 3), np.uint8), "y": np.zeros(6, int)}, r"is uint8, but pixels are \(n, C, H, W\)"),
        ({"x": np.zeros((6, 8, 8), np.uint8), "y": np.zeros(6, int)}, r"is uint8, but pixels are \(n, C, H, W\)"),
        ({"x": np.zeros((6, 8, 8, 3), np.uint8), "y": np.zeros(6, int)}, "channels last"),
        ({"x": np.zeros((6, 3, 8, 0), np.uint8), "y": np.zeros(6, int)}, "holds no numbers"),
        ({"x": np.array([{}] * 6), "y": np.zeros(6, int)}, "a.npz is damaged"),  # pickles are never read
        (
            {"x": np.zeros((4, 3)), "y": np.zeros(4, int)},
            "holds 4 samples: add some, because it needs at least 5",
        ),
    ],
)
def test_the_message_says_what_is_wrong(folder, arrays, message) -> None:
    np.savez(folder / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(
    "x",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 3)}",  # and no numbers
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 10000000000000)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 1000000000000000000000000)}",
        b"{'descr': '<f4', 'shape': (((",
        b"{'descr': " + b"(" * 6000 + b")" * 6000 + b"}",
    ],
)
def test_no_npz_file_is_a_traceback(folder, x: bytes, method: int) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w", method) as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(x).to_bytes(2, "little") + x)
    whole = (folder / "a.npz").read_bytes()
    for place, damage in ((0, b""), (6, b"\x01"), (8, b"\x63"), (40, b"\xff" * 8), (len(whole) - 60, b"\xff" * 8)):
        (folder / "a.npz").write_bytes(whole[:place] + damage + whole[place + len(damage) :])
        with pytest.raises(DataError, match=r"^\S*a.npz is damaged or lacks x or y \(.*\): repair it or move it away$"):
            load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sit\n\nwalk\n", "classes.txt, line 2 is blank"),
        (b"sit\nwalk\nsit\n", "names the class 'sit' twice"),
        ("gr\u00fcn\n".encode("latin-1"), "classes.txt is not readable text"),
        (b"", "classes.txt, line 1 is blank"),
    ],
)
def test_classes_are_lines_without_gaps(folder, content: bytes, message: str) -> None:
    (folder / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def read(folder): return 1 / 0", "reader.py: ZeroDivisionError: division by zero; it must return x and y"),
        ("x = 1", r"reader.py: has no function read\(folder\)"),
        ("def read(folder): return 5", "reader.py: TypeError"),
        ("import nothing_of_this_name", "reader.py: ModuleNotFoundError"),
        ("def read(", "reader.py: SyntaxError"),
        ("raise SystemExit(3)", "reader.py: SystemExit: 3; it must return"),
        ("raise ValueError('a\\nb')", "reader.py: ValueError: a; it must return"),
    ],
)
def test_a_reader_that_fails_is_named(folder, code: str, message: str) -> None:
    (folder / "reader.py").write_text(code)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_reader_may_import_a_file_beside_it(folder) -> None:
    (folder / "my_format.py").write_text(
        "import numpy as np\n\n\ndef parse():\n    return np.ones((6, 2)), np.ones(6, int)\n"
    )
    (folder / "reader.py").write_text("def read(folder):\n    import my_format\n\n    return my_format.parse()\n")
    before = list(sys.path)
    assert load(folder).y_train.tolist() == [1] * 5 and sys.path == before


def test_files_that_do_not_fit_or_are_missing(folder) -> None:
    with pytest.raises(DataError, match="no .npz file yet"):
        load(folder)
    put(folder, "a.npz", range(6))
    np.savez(folder / "b.npz", x=np.zeros((6, 4), np.float32), y=np.zeros(6, int))
    with pytest.raises(DataError, match="b.npz: x has another shape or type"):
        load(folder)
    for content in (b"torn", (folder / "a.npz").read_bytes()[:200]):
        (folder / "b.npz").write_bytes(content)
        with pytest.raises(DataError, match="b.npz is damaged"):
            load(folder)
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match="make a folder with device-0.csv, .* or with classes.txt and .npz files"):
        load(folder)
