"""The commands of chat as a person meets them."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.cli.main import app
from experiments.serving.link import parse_address
from fl.config import SettingsError

QUICK = ["--set", "spa.tiny-steps=20", "--set", "spa.facts=1", "--set", "spa.mode=s1"]


def test_a_chat_on_one_machine(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    lines = b"\xff is no UTF-8\n" + b"word " * 300 + b"\nWhat is the capital of Spain?\n"  # the base has 256 positions
    how = ["--limit", "12", "--trace", str(trace)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "chat", *QUICK, *how], input=lines, capture_output=True, timeout=400
    )
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "this line is not UTF-8 and is left out: '\\udcff is no UTF-8'" in said
    assert "tokens, the base has room for 244, and 12 for the answer (--limit)" in said
    assert "The base 'tiny' is a toy" in said and "with the device in" in said
    assert all(row["asked"] == "True" for row in csv.DictReader(trace.read_text().splitlines()))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["chat", "--plugin", "x", "--device", "3"], "--device is for a plugin that is trained now"),
        (["chat", "--plugin", "x", "--set", "spa.mode=s1"], "spa.mode is for training a plugin"),
        (["spa", "cloud", "--set", "rounds=3"], "rounds is for training a plugin"),
        (["chat", "--top-p", "0.5"], "--top-p and --sampling-seed need --temperature"),
        (["spa", "cloud", "--listen", "7070"], "'7070' is no address"),
        (["spa", "chat", "--cloud", "lab.local:7070", "--plugin", "missing"], "missing contains no plugin"),
    ],
)
def test_what_does_not_apply_is_refused(words: list[str], why: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and why in str(result.exception)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:70") == ("127.0.0.1", 70)
    assert parse_address("[::1]:70") == ("::1", 70)
    for wrong in ("7070", "host:", "host:x", ":70", "host:70000", "host:\N{ARABIC-INDIC DIGIT SEVEN}"):
        with pytest.raises(SettingsError, match="is no address; write HOST:PORT"):
            parse_address(wrong)
