"""Examples in files: every form, what is wrong in them, and a machine that has only its own."""

from pathlib import Path

import pandas as pd
import pytest

from partitions.datasets.text.examples import ExampleFiles, read_examples
from partitions.datasets.text.personas import Example
from partitions.errors import DataError


def test_every_form_holds_the_same_examples(tmp_path: Path) -> None:
    expected = [Example("Hi", "Ho"), Example("ä\u2028b", "c", "d,\n")]
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        '{"instruction": "Hi", "output": "Ho"}\n\n{"instruction": "ä\u2028b", "input": "d,\\n", "output": "c"}\n'
    )
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    table = pd.DataFrame([vars(example) for example in expected])
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    for path in (lines, tmp_path / "a.csv", tmp_path / "a.parquet"):
        assert read_examples(path) == expected


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.jsonl", '{"instruction": "Hi"}', "line 1: instruction and output must be text"),
        ("a.jsonl", '{"instruction": "Hi", "output": "x"}\n5', "line 2: expected"),
        ("a.jsonl", '{"instruction": "Hi", "output": "x"}\n[1]', "line 2: expected"),
        ("a.jsonl", '{"instruction": "Hi", "output": 3}', "must be text"),
        ("a.jsonl", "", "has no examples"),
        ("a.csv", "instruction,output\nHi,Ho\nHi,\n", "row 2: instruction and output must be text"),
        ("a.csv", "instruction,output\n3,Ho\n", "row 1: instruction and output must be text"),
        ("a.csv", "question,answer\nHi,Ho\n", "row 1: instruction and output must be text"),
        ("a.csv", "instruction,output\n", "has no examples"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=why):
        read_examples(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")


def test_a_device_needs_its_own_file_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the file of each device device-0.jsonl"):
        ExampleFiles(tmp_path)
    table = pd.DataFrame({"instruction": [f"q{n}" for n in range(10)], "output": "a"})
    table.to_csv(tmp_path / "device-7.csv", index=False)
    files = ExampleFiles(tmp_path)
    parts = {split: [e.instruction for e in files.examples(7, 0, split)] for split in ("train", "calibrate", "test")}  # type: ignore[arg-type]
    assert parts == {"train": ["q0", "q1", "q2", "q5", "q6", "q7"], "calibrate": ["q3", "q8"], "test": ["q4", "q9"]}
    with pytest.raises(DataError, match="no file of device-0, only of device-7"):
        files.examples(0, 0, "train")
    table[:4].to_csv(tmp_path / "device-7.csv", index=False)
    with pytest.raises(DataError, match="has 4 examples; a device needs at least 5"):
        ExampleFiles(tmp_path).examples(7, 0, "test")
    (tmp_path / "server.csv").write_text("instruction,output\n")
    with pytest.raises(DataError, match="the cloud's base is frozen: remove it"):
        ExampleFiles(tmp_path)
