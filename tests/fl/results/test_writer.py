"""Writing a results folder: same numbers give the same bytes, and no crash, second writer or bad cell damages it."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl.results.files import ResultsError
from fl.results.reader import read_devices, read_measures, read_rounds
from fl.results.rows import COLUMNS
from fl.results.writer import ResultsWriter
from tests.fl.results.examples import device_row, measure_row, open_, row


def test_the_file_by_hand(tmp_path):
    with open_(tmp_path) as results:
        results.append(
            [row(1, devices=3, virtual_s=0.1 + 0.2, evaluated=1, accuracy_mean=0.5, deliver_bytes=1e6, wall_s=2)]
        )
    header, line = (tmp_path / "rounds.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert line == "toy,m=2,fedavg,0,1,0,3,0,0,0,0,0,0,0.3,0,0,,,,,,1,0,0.5,,,,,,,1000000,0,,,,,,,2"


def test_same_numbers_same_bytes(tmp_path):
    plain = row(1, devices=3, bytes_up=7, accuracy_mean=0.25, virtual_s=3.0)
    numpys = row(np.int32(1), devices=np.int64(3), bytes_up=7.0, accuracy_mean=np.float32(0.25), virtual_s=3)
    for name, rows in {"one": [[plain, row(2)]], "two": [[numpys], [row(2)]]}.items():
        with open_(tmp_path / name) as results:
            for part in rows:
                results.append(part)
            results.finish("m=2", "fedavg", 0)
    for name in ("rounds.csv", "config.toml"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_config_holds_what_ran(tmp_path):
    settings = {"m=2": {"lr": np.float64(0.1), "sizes": (1, 2), "folder": None, "deep": {"on": True}}}
    with open_(tmp_path, settings, seeds=[0, 1]) as results:
        results.append([row(1)])
        results.finish("m=2", "fedavg", 0)
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert config["settings"] == {"m=2": {"lr": 0.1, "sizes": [1, 2], "deep": {"on": True}}}
    assert (config["experiment"], config["seeds"], config["methods"]) == ("toy", [0, 1], ["na", "fedavg"])
    assert config["finished"] == {"m=2": {"fedavg": [0]}}
    assert {"driftfed", "python", "torch", "flwr", "numpy"} <= set(config["versions"][0])


def test_a_torn_last_line_is_dropped(tmp_path):
    with open_(tmp_path) as results:
        results.append([row(1), row(2)])
    whole = (tmp_path / "rounds.csv").read_bytes()
    for cut in (1, 10, 40):
        (tmp_path / "rounds.csv").write_bytes(whole[:-cut])
        assert list(read_rounds(tmp_path)["round"]) == [1]  # reading leaves the file as it is: a run may be writing it
        assert (tmp_path / "rounds.csv").read_bytes() == whole[:-cut]
        with open_(tmp_path) as results:
            results.append([row(2)])
        assert (tmp_path / "rounds.csv").read_bytes() == whole


def test_a_torn_header_is_written_again(tmp_path):
    open_(tmp_path).close()
    (tmp_path / "rounds.csv").write_text("experiment,sett")
    open_(tmp_path).close()
    assert read_rounds(tmp_path).empty


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    with open_(tmp_path) as results:
        results.append([row(1)])
        before = (tmp_path / "rounds.csv").read_bytes()

        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ResultsError, match="No space left"):
            results.append([row(2)])
        assert (tmp_path / "rounds.csv").read_bytes() == before
        monkeypatch.undo()
        results.append([row(2)])
    assert list(read_rounds(tmp_path)["round"]) == [1, 2]


def test_a_study_is_not_written_over(tmp_path):
    (tmp_path / "study.csv").write_text("experiment,setting,seed\n")
    with pytest.raises(ResultsError, match=r"another kind of experiment \(study.csv\); choose another folder"):
        open_(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.csv"]
    open_(tmp_path, overwrite=True).close()
    assert not (tmp_path / "study.csv").exists()


def test_rows_of_unknown_origin_are_refused(tmp_path):
    with open_(tmp_path) as results:
        results.append([row(1)])
    (tmp_path / "config.toml").unlink()
    with pytest.raises(ResultsError, match=r"no readable config\.toml"):
        open_(tmp_path)


def test_a_folder_that_is_refused_stays_as_it_was(tmp_path):
    (tmp_path / "rounds.csv").write_text("somebody,else\n")
    with pytest.raises(ResultsError, match="has other columns than this version writes"):
        open_(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rounds.csv"]


def test_resume_gives_the_same_bytes(tmp_path):
    """Killed in round 2 of the second run: the first is skipped, the second goes on after its checkpoint."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with open_(whole) as results:
        for method in ("na", "fedavg"):
            for round in (1, 2, 3):
                results.append([row(round, method)])
                results.append_devices([replace(device_row(round, d), method=method) for d in (0, 1)])
                results.append_measures([replace(measure_row(round), method=method)])
            results.finish("m=2", method, 0)
    with open_(cut) as results:
        for round in (1, 2, 3):
            results.append([row(round, "na")])
            results.append_devices([replace(device_row(round, d), method="na") for d in (0, 1)])
            results.append_measures([replace(measure_row(round), method="na")])
        results.finish("m=2", "na", 0)
        for round in (1, 2):
            results.append([row(round)])
            results.append_devices([device_row(round, d) for d in (0, 1)])
            results.append_measures([measure_row(round)])
    with open_(cut) as results:
        assert results.done() == {("m=2", "na", 0)}
        results.rewind("m=2", "fedavg", 0, round=1)
        for round in (2, 3):
            results.append([row(round)])
            results.append_devices([device_row(round, d) for d in (0, 1)])
            results.append_measures([measure_row(round)])
        results.finish("m=2", "fedavg", 0)
    for name in ("rounds.csv", "devices.csv", "measures.csv", "config.toml"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    assert len(read_devices(whole)) == 12 and read_devices(whole)["device_class"][0] == "pi4"
    assert read_measures(whole)["value"].tolist() == [0.25, 0.5, 0.75] * 2


def test_rewind_to_the_start_unmarks_the_run_and_spares_others(tmp_path):
    with open_(tmp_path, seeds=(0, 1)) as results:
        results.append([row(1), row(2), row(1, method="na"), row(1, setting="m=5"), row(1, seed=1)])
        results.finish("m=2", "fedavg", 0)
        results.finish("m=2", "na", 0)
        results.rewind("m=2", "fedavg", 0)
        assert results.done() == {("m=2", "na", 0)}
        results.append([row(1)])
    frame = read_rounds(tmp_path)
    assert list(zip(frame.setting, frame.method, frame.seed, strict=True)) == [
        ("m=2", "na", 0), ("m=5", "fedavg", 0), ("m=2", "fedavg", 1), ("m=2", "fedavg", 0),
    ]  # fmt: skip


def test_a_row_is_written_once(tmp_path):
    with open_(tmp_path) as results:
        results.append([row(1)])
        with pytest.raises(ResultsError, match="already has the row"):
            results.append([row(2), row(1)])
        with pytest.raises(ResultsError, match="already has the row"):
            results.append([row(2), row(2)])
    with open_(tmp_path) as results, pytest.raises(ResultsError, match="rewind"):
        results.append([row(1)])
    assert list(read_rounds(tmp_path)["round"]) == [1]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"setting": "m=9"}, "not in the config"),
        ({"experiment": "other"}, "not in the config"),
        ({"method": "fed\navg"}, "line break"),
        ({"devices": 2.5}, "'devices' holds whole numbers"),
        ({"bytes_up": float("nan")}, "'bytes_up' holds whole numbers"),
    ],
)
def test_bad_rows_are_refused_whole(tmp_path, bad, why):
    with open_(tmp_path) as results, pytest.raises(ResultsError, match=why):
        results.append([row(1), row(2, **bad)])
    assert read_rounds(tmp_path).empty


def test_one_writer_at_a_time(tmp_path):
    with open_(tmp_path), pytest.raises(ResultsError, match="another run is writing"):
        open_(tmp_path)
    open_(tmp_path).close()
    with pytest.raises(ResultsError):
        ResultsWriter(tmp_path / "new", "toy", {"a": {"x": object()}}, [0])
    open_(tmp_path / "new").close()


def test_unusable_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="is relative"):
        open_(Path("results"))
    with pytest.raises(ResultsError, match="cannot write results"):
        open_(tmp_path / "file" / "below")
    with pytest.raises(ResultsError, match="is a file; results need a folder"):
        open_(tmp_path / "file")
