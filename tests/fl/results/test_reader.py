"""Reading a results folder: the numbers that were written, or a clear refusal."""

import numpy as np
import pytest

from fl.results.files import ResultsError
from fl.results.reader import read_rounds
from fl.results.rows import COLUMNS, LATER
from fl.results.writer import ResultsWriter
from tests.fl.results.examples import SETTINGS, row


def test_round_trip(tmp_path):
    scored = row(
        2, step=1, devices=3, bytes_up=10**15, virtual_s=1.5, evaluated=3, accuracy_mean=2 / 3, accuracy_p10=0.0
    )
    with ResultsWriter(tmp_path, "toy", SETTINGS, [0], ["fedavg", "NA", "na"]) as results:
        results.append([row(1), scored])
        results.append([row(1, method="NA"), row(1, method="na")])  # names that pandas would read as missing numbers
    frame = read_rounds(tmp_path)
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["method"]) == ["fedavg", "fedavg", "NA", "na"]
    assert frame["bytes_up"][1] == 10**15 and frame["bytes_up"].dtype == np.int64
    assert frame["accuracy_mean"][1] == 0.6666666667 and frame["accuracy_p10"][1] == 0.0
    assert np.isnan(frame["accuracy_mean"][0]) and np.isnan(frame["global_accuracy"][1])


def test_unreadable_rounds(tmp_path):
    with pytest.raises(ResultsError, match="run the experiment first"):
        read_rounds(tmp_path)
    (tmp_path / "rounds.csv").write_text("experiment,round\n")
    with pytest.raises(ResultsError, match="columns of this version"):
        read_rounds(tmp_path)
    (tmp_path / "rounds.csv").write_text(",".join(COLUMNS) + "\n" + "toy,m=2,fedavg,zero" + "," * 29 + "\n")
    with pytest.raises(ResultsError, match="cannot be read"):
        read_rounds(tmp_path)
    (tmp_path / "rounds.csv").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ResultsError, match="is damaged, it is not text"):
        read_rounds(tmp_path)


@pytest.mark.parametrize("version", range(len(LATER)))
def test_a_file_of_a_version_without_the_later_columns_is_read_and_keeps_its_columns(tmp_path, version: int):
    names = [name for group in LATER[version:] for name in group]

    def written(*rows):
        with ResultsWriter(tmp_path, "toy", SETTINGS, [0], ["fedavg"]) as results:
            results.append(rows)
        return (tmp_path / "rounds.csv").read_text()

    lines = [line.split(",") for line in written(row(1, devices=3)).splitlines()]
    later = [list(COLUMNS).index(name) for name in names]
    old = "".join(",".join(cell for at, cell in enumerate(line) if at not in later) + "\n" for line in lines)
    (tmp_path / "rounds.csv").write_text(old)
    text = written(row(2, devices=4, variance=0.5))
    assert text.startswith(old)
    frame = read_rounds(tmp_path)
    assert list(frame.columns) == list(COLUMNS) and frame["devices"].tolist() == [3, 4]
    default = row(1)
    for name in names:
        assert (
            frame[name].fillna(-1).tolist() == [-1 if np.isnan(getattr(default, name)) else getattr(default, name)] * 2
        )
