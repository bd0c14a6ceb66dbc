"""A folder with a file for each device: what is read, and one sentence for everything that cannot be."""

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from partitions import DATASETS, DataError, Dataset
from partitions.datasets.columns import held_out
from partitions.root import Root

pytest.importorskip("pyarrow")


def load(folder: Path, image_size: int = 0, **options: Any) -> Dataset:
    source = DATASETS["folder"]
    return source.with_options(source.Options(**options)).load(Root.at(folder), image_size)


def table(rows: int, label: Any = ("sit", "walk"), dtype: str = "float64", first: int = 0) -> pd.DataFrame:
    """Make a table whose cell of row i in column a is i, with two more columns and labels in turn."""
    numbers = np.arange(first, first + rows)
    y = [label[i % len(label)] for i in range(rows)]
    return pd.DataFrame({"a": numbers.astype(dtype), "b": -numbers.astype(dtype), "c": 0.5, "label": y})


def write(frame: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        np.savez(path, x=frame[["a", "b", "c"]].to_numpy(), y=pd.factorize(frame["label"])[0])


@pytest.mark.parametrize("suffixes", [[".csv"] * 3, [".jsonl"] * 3, [".parquet"] * 3, [".csv", ".parquet", ".jsonl"]])
def test_every_sample_is_there_once_with_its_device_and_class(tmp_path: Path, suffixes: list[str]) -> None:
    for device, suffix in enumerate(suffixes):
        write(table(20, first=100 * device), tmp_path / f"device-{device}{suffix}")
    data = load(tmp_path)
    assert data.classes == ("sit", "walk") and data.domains == ("device-0", "device-1", "device-2")
    assert (data.x_train.dtype, data.y_train.dtype, data.input_shape) == (np.float32, np.int64, (3,))
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    domain = np.concatenate([data.domain_train, data.domain_test])
    assert sorted(x[:, 0].tolist()) == [100 * device + i for device in range(3) for i in range(20)]
    assert (x[:, 0] // 100 == domain).all() and (x[:, 0] % 2 == y).all() and (x[:, 1] == -x[:, 0]).all()
    assert np.bincount(data.domain_test).tolist() == [4, 4, 4]
    assert data.proxy is None
    again = load(tmp_path)
    assert again.digest == data.digest and isinstance(again.x_train, np.memmap)  # converted once


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    for device in range(2):
        write(table(20), tmp_path / f"device-{device}.csv")
    before = load(tmp_path)
    text = (tmp_path / "device-1.csv").read_text()
    (tmp_path / "device-1.csv").write_text(text.replace("sit", "run"))
    after = load(tmp_path)
    assert after.digest != before.digest and after.classes == ("run", "sit", "walk")


def test_files_of_arrays_and_the_cloud(tmp_path: Path) -> None:
    for name in ("device-0", "device-1", "server"):
        write(table(10), tmp_path / f"{name}.npz")
    data = load(tmp_path)
    assert data.domains == ("device-0", "device-1", "server") and data.classes == ("0", "1")
    assert data.proxy is not None and (data.domain_train[data.proxy] == 2).all() and len(data.proxy) == 8
    assert (np.delete(data.domain_train, data.proxy) < 2).all()


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    frame = table(10).rename(columns={"label": "y"})
    write(frame, tmp_path / "device-0.csv")
    write(frame[["y", "c", "b", "a"]].assign(note="x"), tmp_path / "device-1.csv")
    data = load(tmp_path, label="y", features="b,a")
    assert data.input_shape == (2,) and (data.x_train[:, 0] == -data.x_train[:, 1]).all()
    with pytest.raises(DataError, match="option 'features' names the column 'a' twice: name each column once"):
        load(tmp_path, label="y", features="a,b,a")
    (tmp_path / "device-1.csv").unlink()
    write(frame[["y", "c", "b", "a"]], tmp_path / "device-1.csv")
    data = load(tmp_path, label="y")
    assert (data.x_train[:, 0] == -data.x_train[:, 1]).all() and (data.x_train[:, 2] == 0.5).all()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([("b", "a"), ("c",)], ("a", "b", "c")),  # a class that one device alone has
        ([(10, 9), (2,)], ("2", "9", "10")),
        ([(1.0, 2.0), (3.0,)], ("1", "2", "3")),  # whole numbers that pandas made floats
        ([(True, False), (True,)], ("False", "True")),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_classes_are_the_labels_that_occur(tmp_path: Path, labels: list[Any], classes: tuple[str, ...], suffix) -> None:
    for device, some in enumerate(labels):
        write(table(10, some), tmp_path / f"device-{device}{suffix}")
    data = load(tmp_path)
    if suffix == ".csv" and isinstance(labels[0][0], float):
        classes = tuple(f"{float(name)}" for name in classes)  # in CSV a label is what is written
    assert data.classes == classes
    own = f"{labels[1][0]}"
    assert {data.classes[y] for y in data.y_train[data.domain_train == 1]} == {own if own in classes else "3"}


def test_a_list_of_classes_gives_their_order(tmp_path: Path) -> None:
    write(table(10), tmp_path / "device-0.csv")
    write(table(10, ("run",)), tmp_path / "device-1.csv")
    (tmp_path / "classes.txt").write_text("walk\nsit\nrun\nfly\n")
    data = load(tmp_path)
    assert data.classes == ("walk", "sit", "run", "fly") and set(data.y_train[data.domain_train == 1]) == {2}
    (tmp_path / "classes.txt").write_text("walk\nsit\n")
    with pytest.raises(DataError, match=r"device-1.csv, row 1: no class is 'run'; known: walk, sit$"):
        load(tmp_path)


def test_numbers_are_names_of_classes_or_lines_of_the_list(tmp_path: Path) -> None:
    for device in range(2):
        write(table(10, (1, 2)), tmp_path / f"device-{device}.csv")
    (tmp_path / "classes.txt").write_text("sit\nwalk\nrun\n")
    assert set(load(tmp_path).y_train) == {1, 2}
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    assert set(load(tmp_path).y_train) == {0, 1}
    (tmp_path / "classes.txt").write_text("sit\nwalk\n")
    with pytest.raises(DataError, match="device-0.csv, row 2: no class is '2'; known: 0, 1"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "uint8", "Int64", "bool"])
def test_inputs_become_float32(tmp_path: Path, dtype: str) -> None:
    for device in range(2):
        write(table(10).assign(b=pd.array([1] * 10, dtype)), tmp_path / f"device-{device}.parquet")
    data = load(tmp_path)
    assert data.x_train.dtype == np.float32 and (data.x_train[:, 1] == 1).all()


def cells(path: Path, **changes: Mapping[int, Any]) -> None:
    """Write a table to a file of any kind, after some cells were changed."""
    frame = table(10).astype(object)
    for column, values in changes.items():
        if column not in frame:
            frame[column] = None
        for row, value in values.items():
            frame.loc[row, column] = value
    if path.suffix == ".parquet":
        frame = frame.infer_objects()
    write(frame, path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": {3: None}}, "device-1{}, row 4: column 'b' has no value; fill it"),
        ({"label": {9: None}}, "device-1{}, row 10: column 'label' has no value; fill it"),
        ({"b": {3: "abc"}}, "device-1{}, row 4: column 'b' holds 'abc', not a number"),
        ({"b": {3: "nan"}}, "device-1{}, row 4: column 'b' holds 'nan', not a number"),
        ({"b": {3: "1_000"}}, "device-1{}, row 4: column 'b' holds '1_000', not a number"),
        ({"b": {0: 1e39}}, "device-1{}, row 1: column 'b' holds 1e+39, too large for float32"),
        ({"d": dict.fromkeys(range(10), 1.5)}, "device-1{} adds the columns 'd', unlike .*device-0.csv"),
        ({"label": {2: ""}}, "device-1{}, row 3: (the label is '';|column 'label' has no value)"),
    ],
)
def test_one_sentence_names_file_and_row(tmp_path: Path, suffix: str, change: dict[str, Any], message: str) -> None:
    write(table(10), tmp_path / "device-0.csv")
    if suffix == ".parquet" and isinstance(change.get("b", {}).get(3), str):
        pytest.skip("a column of parquet has one type")
    cells(tmp_path / f"device-1{suffix}", **change)
    with pytest.raises(DataError, match=message.format(suffix).replace("+", r"\+")) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_label_and_inputs_of_one_kind_only(tmp_path: Path) -> None:
    write(table(10), tmp_path / "device-0.jsonl")
    for label, message in (
        ([0, 1], r"device-1.jsonl, row 1: the label is \[0, 1\]; give a whole number or the name of a class"),
        (0.5, r"device-1.jsonl, row 1: the label is 0.5; give"),
        (3, r"labels of .*device-1.jsonl are numbers, and .*device-0.jsonl has 'sit': write them in one way"),
        ({"a": 1}, r"device-1.jsonl, row 1: the label is \{'a': 1\}; give"),
    ):
        lines = [{"a": 1, "b": 1, "c": 1, "label": label}] * 5
        (tmp_path / "device-1.jsonl").write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(DataError, match=message):
            load(tmp_path)
    write(table(10).drop(columns="c"), tmp_path / "device-1.jsonl")
    with pytest.raises(
        DataError, match="device-1.jsonl lacks the columns 'c', unlike .*device-0.jsonl: give all files"
    ):
        load(tmp_path)
    with pytest.raises(DataError, match="device-0.jsonl has no column 'y': its columns are a, b, c, label"):
        load(tmp_path, label="y")
    (tmp_path / "device-1.jsonl").unlink()
    np.savez(tmp_path / "device-1.npz", x=np.zeros((5, 4)), y=np.zeros(5, int))
    with pytest.raises(DataError, match=r"device-1.npz has inputs \(4,\) float32, and .*device-0.jsonl has \(3,\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("device-1.csv", b"", "device-1.csv needs a first line of column names"),
        ("device-1.csv", b"a,b,c,label\n", "device-1.csv has no rows: each device needs samples"),
        ("device-1.csv", b"a,b,b,label\n1,2,3,sit\n", "each of them once, not 'a,b,b,label"),
        ("device-1.csv", b"a,b,c,label\n1,2,3,sit,5\n", "device-1.csv cannot be read as CSV"),
        ("device-1.csv", b"a,b,c,label\n1,2,3,sit\n1,2\n", "row 2: column 'label' has no value"),
        ("device-1.csv", b"a,b,c,label\n1,2,3,sit\n\n1,2,3,sit\n", "row 2: column 'label' has no value"),
        ("device-1.csv", b"a,b,c,label\n1,2,3,\xff\n", "device-1.csv is not readable text"),
        ("device-1", b"", "device-1 cannot be read: give .parquet, .csv, .jsonl, .npz, or a folder of pictures"),
        ("device-1.CSV", b"", "device-1.CSV cannot be read: give"),
        ("device-1.csv.gz", b"", "device-1.csv.gz cannot be read: give"),
        ("server.tsv", b"", "server.tsv cannot be read: give"),
        ("device-1.csv", b"a,b,c,label\n1,2,3,sit\n", "device-1 has 1 sample: it needs one to train on and one"),
        ("device-1.parquet", b"torn", "device-1.parquet cannot be read as parquet"),
        ("device-1.npz", b"torn", "device-1.npz is damaged"),
        ("device-1.jsonl", b"", "device-1.jsonl has no rows"),
        ("device-1.jsonl", b'{"a": 1\n', "device-1.jsonl, line 1 is no JSON"),
        ("device-1.jsonl", b'{"a": 1' + b"0" * 400 + b', "label": "sit"}', "row 1: column 'a' holds 1000.*, not a"),
        ("device-1.jsonl", b'{"a": {"u": 1}, "label": "sit"}', "row 1: column 'a' holds {'u': 1}, not a number"),
        ("device-2.csv", b"", "has no file of device-1: number the files of devices from 0, without gaps"),
        ("device-0.jsonl", b"", "device-0.csv and .*device-0.jsonl both belong to device-0: keep one"),
        ("device-00.csv", b"", "both belong to device-0"),
        ("client-1.csv", b"", "client-1.csv is neither of a device nor of the server: call it device-<number>.csv"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_right(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(table(10), tmp_path / "device-0.csv")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_files_that_are_still_written_are_not_read(tmp_path: Path) -> None:
    for name in ("device-0.csv", "device-1.csv", "device-2.part", "device-3.csv.tmp"):
        write(table(10), tmp_path / "table.csv")
        (tmp_path / "table.csv").rename(tmp_path / name)
    assert load(tmp_path).domains == ("device-0", "device-1")


def test_a_device_that_has_nothing_is_noticed_although_the_others_are_in_the_cache(tmp_path: Path) -> None:
    for device in range(2):
        write(table(10), tmp_path / f"device-{device}.csv")
    load(tmp_path)
    (tmp_path / "device-2").mkdir()
    with pytest.raises(DataError, match="device-2 has no pictures: each device needs samples"):
        load(tmp_path)
    (tmp_path / "device-2").rmdir()
    (tmp_path / "device-2.csv").symlink_to(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="device-2.csv cannot be read"):
        load(tmp_path)


def test_arrays_without_samples_and_labels_that_are_too_large(tmp_path: Path) -> None:
    write(table(10), tmp_path / "device-0.npz")
    np.savez(tmp_path / "device-1.npz", x=np.zeros((0, 3)), y=np.zeros(0, int))
    with pytest.raises(DataError, match="device-1 has no samples: it needs one to train on and one for the test"):
        load(tmp_path)
    np.savez(tmp_path / "device-1.npz", x=np.zeros((5, 3)), y=np.array([0, 1, 2, 3, 2**63], np.uint64))
    with pytest.raises(DataError, match="device-1.npz: y holds 9223372036854775808: labels must fit into int64"):
        load(tmp_path)


def test_numbers_of_several_types_are_numbers(tmp_path: Path) -> None:
    write(table(10), tmp_path / "device-0.csv")
    rows = [{"a": value, "b": 2**70, "c": 1, "label": "sit"} for value in (True, 2, 0.5, False)]
    (tmp_path / "device-1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(tmp_path)
    x = np.concatenate([data.x_train[data.domain_train == 1], data.x_test[data.domain_test == 1]])
    assert sorted(x[:, 0].tolist()) == [0, 0.5, 1, 2] and (x[:, 1] == np.float32(2**70)).all()
    write(table(10).assign(a=[Decimal("1.5")] * 10), tmp_path / "device-2.parquet")
    assert (load(tmp_path).x_train[-1, 0] == 1.5).all()


def test_options_that_nothing_reads_are_refused(tmp_path: Path) -> None:
    for device in range(2):
        write(table(10), tmp_path / f"device-{device}.npz")
    with pytest.raises(DataError, match="folder.label is about columns of tables, and .*device-0.npz has none"):
        load(tmp_path, label="y")
    with pytest.raises(ValueError, match="data.image-size = 8 shrinks pictures, and .*device-0.npz holds none"):
        load(tmp_path, image_size=8)


def test_a_machine_that_has_one_file_needs_the_list_of_classes(tmp_path: Path) -> None:
    write(table(20), tmp_path / "device-7.csv")
    with pytest.raises(DataError, match="has one file and no classes.txt: write all devices' classes, one per line"):
        load(tmp_path)
    (tmp_path / "classes.txt").write_text("run\nsit\nwalk\n")
    data = load(tmp_path)
    assert data.domains == ("device-7",) and set(data.y_train) == {1, 2}
    kept = data.x_test[:, 0].tolist()
    write(table(30), tmp_path / "device-7.csv")  # new samples arrived
    assert load(tmp_path).x_test[:, 0].tolist()[: len(kept)] == kept


def test_a_folder_of_pictures_for_each_device(tmp_path: Path) -> None:
    for device in range(2):
        for label, level in (("cat", 0), ("dog", 255)):
            (tmp_path / f"device-{device}" / label).mkdir(parents=True)
            for number in range(5):
                image = Image.new("RGB", (12, 8), (level, 0, 10 * device))
                image.save(tmp_path / f"device-{device}" / label / f"{number}.png")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog") and data.x_train.dtype == np.uint8 and data.input_shape == (3, 8, 12)
    assert ((data.x_train[:, 0, 0, 0] == 255) == data.y_train).all()
    assert (data.x_train[:, 2, 0, 0] == 10 * np.asarray(data.domain_train)).all()
    assert abs(data.inputs("train").mean(axis=(0, 2, 3))).max() < 1e-4
    assert load(tmp_path, image_size=4).input_shape == (3, 4, 6)
    with pytest.raises(DataError, match="0.png has 8 rows of pixels, fewer than data.image-size = 9"):
        load(tmp_path, image_size=9)
    Image.new("L", (12, 8)).save(tmp_path / "device-1" / "dog" / "9.png")
    with pytest.raises(DataError, match=r"dog/9.png has shape \(1, 8, 12\), pictures before it have \(3, 8, 12\)"):
        load(tmp_path)
    (tmp_path / "device-1" / "dog" / "9.png").write_text("no picture")
    with pytest.raises(DataError, match=r"dog/9.png is no picture that can be read"):
        load(tmp_path)
    (tmp_path / "device-1" / "dog" / "9.png").rename(tmp_path / "device-1" / "9.png")
    with pytest.raises(DataError, match="9.png is in no folder of a class"):
        load(tmp_path)


def test_text_is_read_as_sentences(tmp_path: Path) -> None:
    for device in range(2):
        lines = [{"text": f"sample {i} \u00fc\nof {device}", "label": "ab"[i % 2]} for i in range(10)]
        (tmp_path / f"device-{device}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):  # the second time from the cache folder
        data = load(tmp_path)
        assert data.text and data.x_train.shape == (16, 1)
        assert {str(text)[-1] for text in data.x_train[data.domain_train == 1, 0]} == {"1"}


def test_arrays_in_cells(tmp_path: Path) -> None:
    for device in range(2):
        x = [[[float(i), 1.0], [2.0, 3.0]] for i in range(10)]
        write(pd.DataFrame({"x": x, "label": [0, 1] * 5}), tmp_path / f"device-{device}.parquet")
    data = load(tmp_path)
    assert data.input_shape == (2, 2) and data.x_train.dtype == np.float32 and (data.x_train[:, 1, 1] == 3).all()
    write(pd.DataFrame({"x": [[]] * 10, "label": [0, 1] * 5}), tmp_path / "device-1.parquet")
    with pytest.raises(DataError, match="device-1.parquet, row 1: column 'x' holds no numbers"):
        load(tmp_path)
    x[4] = [[1.0, 2.0]]
    write(pd.DataFrame({"x": x, "label": [0, 1] * 5}), tmp_path / "device-1.parquet")
    with pytest.raises(DataError, match=r"device-1.parquet, row 5: the shape is \(1, 2\), that of row 1 is \(2, 2\)"):
        load(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_later_rows_do_not_move_earlier_ones_between_training_and_test(labels, fraction, begin) -> None:
    y = np.array(labels)
    held = held_out(y, y + begin, fraction)
    for cut in range(1, len(y)):
        assert (held_out(y[:cut], y[:cut] + begin, fraction) == held[:cut]).all()
    for label in set(labels):
        assert abs(held[y == label].sum() - fraction * (y == label).sum()) < 1


def test_every_fifth_is_for_the_test() -> None:
    zeros = np.zeros(1_000_000, np.int64)
    assert (held_out(zeros, zeros, 0.2) == (np.arange(1_000_000) % 5 == 4)).all()
