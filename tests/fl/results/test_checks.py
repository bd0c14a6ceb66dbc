"""Rows of a finished run that are lost, doubled or changed are noticed, whichever byte it is."""

from pathlib import Path

import numpy as np
import pytest

from fl.results.checks import CHECKSUMS
from fl.results.files import ResultsError
from fl.results.reader import read_config, read_devices, read_measures, read_rounds
from tests.fl.results.examples import device_row, measure_row, open_, row

READERS = {"rounds.csv": read_rounds, "devices.csv": read_devices, "measures.csv": read_measures}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a finished run of fedavg and an unfinished one of na."""
    with open_(tmp_path) as results:
        for round in (1, 2, 3):
            results.append([row(round, virtual_s=round * 0.7), row(round, method="na")])
            results.append_devices([device_row(round, d) for d in (0, 1)])
            results.append_measures([measure_row(round)])
        results.finish("m=2", "fedavg", 0)
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_a_lost_a_doubled_and_a_changed_row_are_named(folder: Path, name: str) -> None:
    path = folder / name
    lines = path.read_text().splitlines(keepends=True)
    mine = next(i for i, line in enumerate(lines) if ",fedavg," in line)
    for rows, said in (
        (lines[:mine] + lines[mine + 1 :], "rows instead of"),
        ([*lines, lines[mine]], "rows instead of"),
        ([*lines[:mine], lines[mine].replace("toy,", "tox,"), *lines[mine + 1 :]], "another content"),
    ):
        path.write_text("".join(rows))
        for look in (READERS[name], open_):
            with pytest.raises(ResultsError, match=rf"{name}' was changed after the run of fedavg .*{said}"):
                look(folder)
    path.unlink()
    with pytest.raises(ResultsError, match=f"{name}' is gone|0 rows instead of 3"):
        open_(folder)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("old", "new"), [("fedavg", "evil"), ("m=2", "m=9"), (",0,", ",7,"), ("toy", "other"), (",0,", f",{9**30},")]
)
def test_a_row_of_another_run_is_named(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    path.write_text(
        path.read_text() + path.read_text().splitlines()[-1].replace("na", "fedavg").replace(old, new, 1) + "\n"
    )
    for read in (READERS[name], open_):
        with pytest.raises(ResultsError, match=rf"^\S*{name}' (has a row of no run|has a line that|was changed)"):
            read(folder)


def test_a_finished_run_without_rows_is_named(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    lines = (folder / "rounds.csv").read_text().splitlines(keepends=True)
    (folder / "rounds.csv").write_text("".join(line for line in lines if "fedavg" not in line))
    for read in (read_rounds, open_):
        with pytest.raises(ResultsError, match=r"has no row of fedavg \(setting 'm=2', seed 0\), which is finished"):
            read(folder)


def test_a_lost_line_of_the_checksums_is_noticed(folder: Path) -> None:
    lines = (folder / CHECKSUMS).read_text().splitlines(keepends=True)
    for at in range(len(lines)):
        for kept in (lines[:at], lines[:at] + lines[at + 1 :]):
            (folder / CHECKSUMS).write_text("".join(kept))
            for read in (read_rounds, open_):
                with pytest.raises(ResultsError, match=f"{CHECKSUMS}' is damaged"):
                    read(folder)


@pytest.mark.parametrize("name", [CHECKSUMS, "rounds.csv"])
def test_a_folder_in_place_of_a_file_is_one_sentence(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    for read in (read_rounds, open_):
        with pytest.raises(ResultsError, match=name):
            read(folder)


def test_a_doubled_row_of_an_unfinished_run_is_not_plotted(folder: Path) -> None:
    path = folder / "rounds.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, next(line for line in lines if ",na," in line)]))
    with pytest.raises(ResultsError, match="has a row twice .setting m=2, method na, seed 0, round 1"):
        read_rounds(folder)


def test_a_run_that_is_begun_again_has_no_checksum_until_it_is_finished(folder: Path) -> None:
    with open_(folder) as results:
        results.rewind("m=2", "fedavg", 0, 1)
    assert ",fedavg," not in (folder / CHECKSUMS).read_text() and len(read_rounds(folder)) == 4
    with open_(folder) as results:
        results.append([row(2)])
        results.finish("m=2", "fedavg", 0)
    assert "rounds.csv,m=2,fedavg,0,2," in (folder / CHECKSUMS).read_text() and len(read_rounds(folder)) == 5


def test_a_flipped_bit_is_one_sentence_or_changes_no_finished_row(folder: Path) -> None:
    """300 flips, each in a fresh copy of the folder's files."""
    draw, names = np.random.default_rng(0), [*READERS, CHECKSUMS, "config.toml"]
    kept = {name: (folder / name).read_bytes() for name in names}
    before = {name: read(folder) for name, read in READERS.items()}
    noticed = 0
    for _ in range(300):
        name = str(draw.choice(names))
        at, bit = int(draw.integers(len(kept[name]))), 1 << int(draw.integers(8))
        (folder / name).write_bytes(kept[name][:at] + bytes([kept[name][at] ^ bit]) + kept[name][at + 1 :])
        try:
            found = {table: read(folder) for table, read in READERS.items()}
            read_config(folder)
            open_(folder).close()
        except ResultsError:
            noticed += 1
        else:
            for table, frame in found.items():
                mine, old = (one[one["method"] == "fedavg"].reset_index(drop=True) for one in (frame, before[table]))
                assert mine.equals(old), (name, at, bit)
        for other, content in kept.items():
            (folder / other).write_bytes(content)
    assert noticed > 150
