"""Texts that stay on their device: machines with one file each give the rows of the simulation."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from experiments.cli.data import data_app
from fl.config import Settings, SettingsError
from fl.workloads.resolve import resolve
from partitions.errors import DataError
from tests.fl.devices.test_machine import compare
from tests.fl.workloads.test_spa import SMALL
from tests.fl.workloads.test_vq import TEXT

REAL = {"devices.placement": "own", "devices.hardware": "testbed", "devices.count": 2}
WORDS = {"food": ["rice", "soup"], "rest": ["bed", "sofa"], "run": ["legs", "shoes"]}


def compare_texts(folder: Path, common: dict[str, Any], server: dict[str, Any]) -> None:
    """Compare machines with the simulation. Args: server: keys that are different where data stay on machines."""
    real = common | REAL
    own = real | server | {"devices.state-root": str(folder / "devices")}
    compare(folder, real | {"devices.placement": "shared"}, own)


def place(folder: Path, name: str, suffix: str, rows: list[dict[str, str]], **files: str) -> None:
    """Write a file to a folder of its own, and to the folder of all."""
    for target in (folder / name, folder / "all"):
        target.mkdir(parents=True, exist_ok=True)
        for other, text in files.items():
            (target / f"{other}.txt").write_text(text)
        if suffix == "csv":
            pd.DataFrame(rows).to_csv(target / f"{name}.csv", index=False)
        else:
            (target / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("split", ["simulated", "messages"])
def test_vq_learns_from_texts_that_stay_on_their_machines(tmp_path: Path, split: str) -> None:
    for number, (name, suffix) in enumerate({"device-0": "csv", "device-1": "jsonl", "server": "csv"}.items()):
        labels = [sorted(WORDS)[(row + row // 3 * number) % 3] for row in range(40)]
        rows = [{"text": f"{WORDS[y][n % 2]}, {WORDS[y][n // 2 % 2]}", "label": y} for n, y in enumerate(labels)]
        place(tmp_path, name, suffix, rows, classes="food\nrest\nrun\n")
    said = CliRunner().invoke(data_app, ["vocabulary", str(tmp_path / "server"), "--most", "60"])
    assert said.exit_code == 0, said.output
    pieces = (tmp_path / "server" / "vocabulary.txt").read_text()
    assert pieces.startswith("[PAD]\n[UNK]\n") and "soup\n" in pieces
    for name in ("device-0", "device-1", "all"):
        (tmp_path / name / "vocabulary.txt").write_text(pieces)
    common = {key: value for key, value in TEXT.items() if not key.startswith("data.")} | {
        "data.name": "folder", "data.root": str(tmp_path / "all"), "data.partition": "none", "drift.kind": "none",
        "rounds": 1, "eval.every": 1, "split": split,
    }  # fmt: skip
    compare_texts(tmp_path, common, {"data.root": str(tmp_path / "server")})


def test_a_vocabulary_of_private_texts_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "rice and soup", "label": "food"}, {"text": "a bed", "label": "rest"}] * 5
    place(tmp_path, "device-0", "csv", rows, classes="food\nrest\nrun\n")
    values = {key: value for key, value in TEXT.items() if not key.startswith("data.")} | {
        "devices.placement": "own", "data.name": "folder", "data.root": str(tmp_path / "device-0"), "drift.kind": "none"
    }  # fmt: skip
    with pytest.raises(SettingsError, match="vocabulary.txt is missing, .*data vocabulary FOLDER.*'minilm'"):
        resolve(Settings.parse(values)).workload.prepare(1)
    result = CliRunner().invoke(data_app, ["vocabulary", str(tmp_path / "device-0")])
    assert isinstance(result.exception, DataError) and "must hold the server's text alone" in str(result.exception)
    for text, why in (("soup\nrice\n", "is no vocabulary"), ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" * 2, "is no")):
        (tmp_path / "device-0" / "vocabulary.txt").write_text(text)
        with pytest.raises(DataError, match=why):
            resolve(Settings.parse(values)).workload.prepare(1)
    letters = "".join(f"{letter}\n" for letter in "abcd")
    (tmp_path / "device-0" / "vocabulary.txt").write_text(f"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n{letters}")
    with pytest.raises(DataError, match="has 9 pieces, vq.vocabulary allows 8: set it to 9"):
        resolve(Settings.parse(values | {"vq.vocabulary": 8})).workload.prepare(1)


def test_spa_learns_from_examples_that_stay_on_their_machines(tmp_path: Path) -> None:
    for number, (name, suffix) in enumerate({"device-0": "csv", "device-1": "jsonl"}.items()):
        rows = [{"instruction": f"Say {n}", "output": f"{number} and {n}"} for n in range(10)]
        place(tmp_path, name, suffix, rows)
    compare_texts(
        tmp_path, {**SMALL, "strategies": "fedavg", "rounds": 1, "spa.data": str(tmp_path / "all")}, {"spa.data": ""}
    )
