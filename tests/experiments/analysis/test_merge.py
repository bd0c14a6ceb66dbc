"""Merging folders gives the same rows as running in one folder, or a clear error."""

from pathlib import Path

import pytest

from experiments.analysis.merge import merge
from fl.results.files import ResultsError
from fl.results.reader import read_config, read_devices, read_measures, read_rounds
from fl.results.rows import DeviceRow, MeasureRow, Row
from fl.results.writer import ResultsWriter

SETTINGS = {"m=2": {"rounds": 2, "lr": 0.1}}


def write(out: Path, seeds: tuple[int, ...], settings=SETTINGS, accuracy: float = 1 / 3, finish: bool = True) -> Path:
    with ResultsWriter(out, "toy", settings, seeds, ["fedavg"], made=[{"torch": f"of {out.name}"}]) as results:
        for seed in seeds:
            where = ("toy", "m=2", "fedavg", seed)
            results.append([Row(*where, 1, 0), Row(*where, 2, 0, accuracy_mean=accuracy, bytes_up=10**15)])
            results.append_devices([DeviceRow(*where, 2, 0, 7, "pi4", 50, 0.5, 0.4, 1e6, 0.25, 1e6, 2.5)])
            results.append_measures([MeasureRow(*where, 2, 0, "bits", seed / 3)])
            if finish:
                results.finish("m=2", "fedavg", seed)
    return out


def test_merged_folders_equal_one_folder(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", (1, 2, 3))
    merge([write(tmp_path / "a", (1, 2)), write(tmp_path / "b", (3,))], tmp_path / "out")
    for name in ("rounds.csv", "devices.csv", "measures.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()
    config = read_config(tmp_path / "out")
    assert config["versions"] == [{"torch": "of a"}, {"torch": "of b"}]
    assert {**config, "versions": 0} == {**read_config(whole), "versions": 0}


def test_merge_extends_a_folder_and_a_second_merge_changes_nothing(tmp_path: Path) -> None:
    out, other = write(tmp_path / "out", (1,)), write(tmp_path / "b", (2,))
    merge([other], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    merge([other], out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    assert [len(read(out)) for read in (read_rounds, read_devices, read_measures)] == [4, 2, 2]


def test_replace_takes_the_new_rows_of_a_run(tmp_path: Path) -> None:
    out, anew = write(tmp_path / "out", (1, 2)), write(tmp_path / "anew", (2,), accuracy=0.5)
    merge([anew], out, replace=True)
    scored = read_rounds(out).dropna(subset="accuracy_mean")
    assert dict(zip(scored["seed"], scored["accuracy_mean"], strict=True)) == {1: 0.3333333333, 2: 0.5}
    assert [len(read(out)) for read in (read_devices, read_measures)] == [2, 2]
    assert read_config(out)["finished"] == {"m=2": {"fedavg": [1, 2]}}


def test_merge_continues_after_an_interruption(tmp_path: Path) -> None:
    out, other = write(tmp_path / "out", (1,)), write(tmp_path / "b", (2,))
    write(out, (2,), finish=False)  # interrupted before the run was marked as finished
    merge([other], out)
    assert len(read_rounds(out)) == 4 and read_config(out)["finished"] == {"m=2": {"fedavg": [1, 2]}}


def test_merge_refuses_conflicting_folders(tmp_path: Path) -> None:
    out = write(tmp_path / "out", (1,))
    rounds = (out / "rounds.csv").read_bytes()
    with pytest.raises(
        ResultsError, match=r"have different rows of fedavg, m=2, seed 1; use --replace to take those of '.*/other'"
    ):
        merge([write(tmp_path / "other", (1,), accuracy=0.5)], out)
    with pytest.raises(ResultsError, match=r"m=2\.lr was 0\.1, is 0\.2"):
        merge([write(tmp_path / "lr", (2,), {"m=2": {"rounds": 2, "lr": 0.2}})], out)
    with pytest.raises(ResultsError, match="has no complete run"):
        merge([write(tmp_path / "half", (2,), finish=False)], out)
    with pytest.raises(ResultsError, match="does not exist|no readable config"):
        merge([tmp_path / "nowhere"], out)
    assert (out / "rounds.csv").read_bytes() == rounds


@pytest.mark.parametrize("name", ["devices.csv", "measures.csv"])
def test_merge_refuses_a_folder_that_lost_a_table(tmp_path: Path, name: str) -> None:
    (write(tmp_path / "a", (1,)) / name).unlink()
    with pytest.raises(ResultsError, match=f"{name}' does not exist"):
        merge([tmp_path / "a"], tmp_path / "out")


def test_merge_of_a_config_without_finished_runs(tmp_path: Path) -> None:
    config = write(tmp_path / "a", (1,)) / "config.toml"
    config.write_text(config.read_text().replace("[finished", "[versions_of"))
    with pytest.raises(ResultsError, match="has no complete run"):
        merge([tmp_path / "a"], tmp_path / "out")
