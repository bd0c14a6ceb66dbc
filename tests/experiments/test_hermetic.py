"""`flwr run` of a tiny app: what it reports, and that it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest

from experiments.hermetic import FlowerRunFailed, add_to_config, flwr_run

ROOT = Path(__file__).parents[2]
NASTY = 'it\'s "quoted" = $HOME `x`\\n\nnext line, ü and 😀'

APP = {
    "pyproject.toml": """
        [project]
        name = "tiny"
        version = "0.1.0"
        description = "An app for tests"
        license = "Apache-2.0"

        [tool.flwr.app]
        publisher = "tests"
        components = { serverapp = "tiny:server", clientapp = "tiny:client" }

        [tool.flwr.app.config]
        mode = "answer"
        text = ""
        share = 0.5
        """,
    "tiny.py": """
        import os, time
        from pathlib import Path

        from flwr.app import ConfigRecord, Message, RecordDict
        from flwr.clientapp import ClientApp
        from flwr.serverapp import ServerApp

        server = ServerApp()
        client = ClientApp()

        @client.query()
        def answer(message, context):
            where = ConfigRecord({"file": __file__, "group": os.getpgid(0)})
            return Message(RecordDict({"where": where}), reply_to=message)

        @server.main()
        def main(grid, context):
            print(f"group={os.getpgid(0)} folder={Path.cwd().parent} files={os.listdir()}")
            print(ascii(dict(context.run_config)))
            if context.run_config["mode"] == "raise":
                raise RuntimeError("gave up on purpose")
            if context.run_config["mode"] == "wait":
                time.sleep(600)
            while len(nodes := list(grid.get_node_ids())) < 3:
                time.sleep(0.05)
            replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes], timeout=60)
            for reply in replies:
                print("reply:", dict(reply.content["where"]))
        """,
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    for name, text in APP.items():
        (tmp_path / name).write_text(dedent(text))
    return tmp_path


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Checks, given a log, that the processes and the folder of its run do not exist any more."""
    marker = str(uuid.uuid4())
    monkeypatch.setenv("DRIFTFED_TEST", marker)  # inherited by all that a run starts

    def running() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX" and marker in (process / "environ").read_text(errors="replace"):
                    found.append((process / "cmdline").read_text())
        return found

    def group_lives(group: int) -> bool:
        with suppress(ProcessLookupError):
            os.killpg(group, 0)
            return True
        return False

    def check(log: str) -> None:
        found = re.search(r"group=(\d+) folder=(\S+)", log)
        assert found, log
        deadline = time.monotonic() + 10  # killed processes stay in their group until the system has removed them
        while group_lives(int(found[1])) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running() == []
        assert not group_lives(int(found[1]))
        assert not Path(found[2]).exists()

    return check


def test_a_run_that_completes(app: Path, nothing_left: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # the cluster of another user
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")  # reaches the internet, not this machine
    lines: list[str] = []
    flwr_run(app, {"text": NASTY, "share": 0.25}, supernodes=3, on_line=lines.append)
    nothing_left("\n".join(lines))

    group = re.match(r"group=(\d+) .* files=\[\]", lines[1])
    assert group
    assert lines[0] == "Starting Flower Simulation"
    assert lines[2] == ascii({"mode": "answer", "text": NASTY, "share": 0.25})
    replies = lines[3:]
    assert len(replies) == 3
    assert all("/home/apps/" in reply and f"'group': {group[1]}" in reply for reply in replies)


def test_a_run_that_fails(app: Path, nothing_left: Callable[[str], None]) -> None:
    with pytest.raises(FlowerRunFailed, match="gave up on purpose") as failure:
        flwr_run(app, {"mode": "raise"}, supernodes=1)
    nothing_left(failure.value.log)
    assert failure.value.cause.endswith("gave up on purpose")
    assert 'raise RuntimeError("gave up on purpose")' in failure.value.log


def test_a_run_that_cannot_start(app: Path) -> None:
    with pytest.raises(FlowerRunFailed, match="Invalid run configuration"):
        flwr_run(app, {"unknown": 1}, supernodes=1)


def test_missing_keys_are_added_to_the_config_of_an_app(app: Path) -> None:
    add_to_config(app / "pyproject.toml", {"mode": "wait", "client.lr": 0.1, "client.clip": 1})
    added = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert added == {"mode": "answer", "text": "", "share": 0.5, "client": {"lr": 0.1, "clip": 1}}


def test_a_run_that_takes_too_long(app: Path) -> None:
    with pytest.raises(FlowerRunFailed, match=r"not finished within 0\.5 s"):
        flwr_run(app, {"mode": "wait"}, supernodes=1, timeout_s=0.5)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_run_whose_owner_is_stopped(app: Path, nothing_left: Callable[[str], None], end: signal.Signals) -> None:
    script = f"""
        import signal
        from pathlib import Path
        from experiments.hermetic import flwr_run
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
        flwr_run(Path({str(app)!r}), {{"mode": "wait"}}, 1, on_line=lambda line: print(line, flush=True))
    """
    command = [sys.executable, "-c", dedent(script)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout
        log = next(line for line in owner.stdout if line.startswith("group="))
        owner.send_signal(end)
        assert owner.wait(timeout=30) == -end
    nothing_left(log)
