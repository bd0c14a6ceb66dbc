"""The chat as a person meets it: two processes, a stream between them, and what happens when one is killed."""

import csv
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.serving.link import parse_address
from fl.config import SettingsError

QUICK = ["--set", "spa.tiny-steps=20", "--set", "spa.facts=1", "--set", "spa.mode=s1"]


def test_a_device_killed_in_mid_sentence_leaves_a_finished_marked_one(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    how = ["--delay-ms", "150", "--limit", "12", "--trace", str(trace)]
    chat = subprocess.Popen(
        [sys.executable, "-m", "experiments", "chat", *QUICK, *how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", errors="surrogateescape", bufsize=1,
    )  # fmt: skip
    stop = threading.Timer(400, chat.kill)  # on a busy machine its imports alone take a minute
    stop.start()
    try:
        assert chat.stdin is not None and chat.stdout is not None
        seen = ""
        while "the device is process" not in seen:
            line = chat.stdout.readline()
            assert line, seen
            seen += line
        device = int(seen.split()[-1])
        chat.stdin.write("Tell me the name of my dog.\n")
        chat.stdin.flush()
        while "[" not in (seen := chat.stdout.read(1)):  # the first token is there
            assert seen
        os.kill(device, signal.SIGKILL)
        bad = "\udcff is no UTF-8\n" + "word " * 300  # the base has 256 positions
        rest, _ = chat.communicate(f"{bad}\nWhat is the capital of Spain?\n")
    finally:
        stop.cancel()
    assert chat.returncode == 0
    assert "{" in rest and "DEGRADED" in rest and rest.count(" tokens, ") == 2  # the next one is answered too
    assert "this line is not UTF-8 and is left out: '\\udcff is no UTF-8'" in rest
    assert "tokens and is left out: the base has room for 244, and 12 for the answer (--limit)" in rest
    sentence, summary, why, *_ = rest.splitlines()
    assert "degraded" not in sentence and "DEGRADED" in summary and why.startswith("degraded: the device is gone")
    rows = list(csv.DictReader(trace.read_text().splitlines()))
    asked = [row["asked"] == "True" for row in rows]
    assert asked[0] and asked == sorted(asked, reverse=True)  # first with the device, then without
    assert all(row["degraded"] == "True" for row in rows if row["asked"] == "False")
    assert trace.with_suffix(".png").stat().st_size > 1000


def test_addresses() -> None:
    assert parse_address("127.0.0.1:70") == ("127.0.0.1", 70)
    for wrong in ("7070", "host:", "host:x"):
        with pytest.raises(SettingsError, match="is no address; write HOST:PORT"):
            parse_address(wrong)
