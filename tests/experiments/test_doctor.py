"""Each check in a case that fails, and the command on this machine and in a broken environment."""

import http.server
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from functools import partial
from importlib import metadata
from pathlib import Path
from time import time

import pytest

from experiments.doctor import (
    Finding,
    clock,
    cores,
    examine,
    folders,
    memory,
    packages,
    ports,
    proxies,
    python,
    reachable,
    shared_memory,
    writable,
)

ROOT = Path(__file__).parents[2]
PROXY = {"HTTPS_PROXY": "http://127.0.0.1:9"}


def installed(versions: Mapping[str, str | None]) -> Callable[[str], str | None]:
    def version(name: str) -> str | None:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    return version


REQUIRED = ["torch==2.11.0", "typer>=0.20,<0.21", "pfl==1; extra == 'bench'", "old==1; python_version < '3'"]


@pytest.mark.parametrize(
    ("check", "level", "said"),
    [
        (lambda: python((3, 10, 4)), "FAIL", "3.10.4 is not 3.11 to 3.14; make PY=python3.12 venv"),
        (lambda: python((3, 15, 0)), "FAIL", "3.15.0 is not"),
        (lambda: python((3, 14, 1)), "ok", "3.14.1"),
        (lambda: packages(REQUIRED, installed({"torch": "2.11.0+cpu", "typer": "0.20.1"})), "ok", "all 2"),
        (lambda: packages(REQUIRED, installed({"torch": "2.10.0"})), "FAIL", "torch is 2.10.0, not ==2.11.0, typer is"),
        (lambda: packages(REQUIRED, installed({"torch": None, "typer": "0.20"})), "FAIL", "torch is missing; run"),
        (lambda: cores(1), "warn", "one client at a time"),
        (lambda: cores(4), "ok", "4 worker processes"),
        (lambda: memory(0.4e9), "FAIL", "0.4 GB free; a small run takes 1 GB"),
        (lambda: shared_memory(ROOT, lambda folder: 64_000_000), "warn", "--shm-size"),
        (lambda: shared_memory(ROOT / "none"), "ok", "no /"),
        (lambda: writable("cache folder", Path("/proc/none"), "name x"), "FAIL", "/proc/none cannot be written"),
        (lambda: proxies(PROXY), "FAIL", "HTTPS_PROXY would divert `flwr run` from 127.0.0.1, localhost; `export no_"),
        (lambda: proxies(PROXY | {"NO_PROXY": "localhost, 127.0.0.1"}), "ok", "none"),
        (lambda: proxies(PROXY | {"no_proxy": "127.0.0.1"}), "FAIL", "no_proxy=127.0.0.1,localhost,::1 NO_PROXY="),
        (lambda: proxies(PROXY | {"NO_PROXY": "127.0.0.1,localhost"}, "lab:8000"), "FAIL", "localhost,::1,lab NO_"),
        (lambda: proxies({"all_proxy": "socks5://x:1", "no_proxy": "*"}), "FAIL", "`unset all_proxy; export"),
        (lambda: reachable("127.0.0.1:1", None, given=True), "FAIL", "127.0.0.1:1 does not answer: [Errno 111]"),
        (lambda: reachable("127.0.0.1:1", None, given=False), "warn", "python -m experiments deploy superlink"),
        (lambda: reachable("lab:1", ROOT / "ca.crt", given=True), "FAIL", "ca.crt is missing; copy it"),
        (lambda: clock(6.0, "the SuperLink"), "FAIL", "6 s ahead of the SuperLink; Flower refuses messages"),
        (lambda: clock(-301.0, "the SuperLink"), "FAIL", "301 s behind"),
        (lambda: clock(-299.0, "the SuperLink"), "ok", "agrees"),
    ],
)  # fmt: skip
def test_a_check(check: Callable[[], Finding], level: str, said: str) -> None:
    finding = check()
    assert finding.level == level
    assert said in str(finding)


def test_a_line_is_ascii() -> None:
    assert str(Finding("ok", "cache folder", "/home/zoë\n/x")) == "ok    cache folder: /home/zo\\xeb /x"


def test_folders_that_the_user_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DRIFTFED_DATA", str(tmp_path / "none"))
    cache, data, state = folders(str(tmp_path / "file" / "below"))
    assert (cache.level, data.level, state.level) == ("ok", "FAIL", "FAIL")
    assert "none, which is not an existing folder" in data.found and "devices.state-root" in state.advice


def test_a_port_of_another_program(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = ports(tmp_path, {port: "--port"})
    assert (found.level, found.found) == ("warn", f"another program uses {port}")
    assert "`deploy superlink --port N`" in found.advice
    assert ports(tmp_path, {port: "--port"}).level == "ok"


@pytest.fixture
def late() -> Iterator[str]:
    """The address of a SuperLink whose clock is an hour behind."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time() - 3600, usegmt=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_clock_is_compared_with_the_superlink_that_is_known(
    late: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(f'[superlink.lab]\naddress = "{late}"\ninsecure = true\n')
    found = {finding.what: finding for finding in examine(folder=tmp_path / "deploy")}
    assert found["SuperLink"].level == "ok"
    assert found["clock"].level == "FAIL" and "s ahead of the SuperLink" in found["clock"].found


@pytest.mark.parametrize(("words", "status"), [([], 0), (["--superlink", "127.0.0.1:1"], 1)])
def test_the_exit_status_says_whether_a_run_can_start(
    words: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("DRIFTFED_DEPLOY", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DRIFTFED_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["experiments", "doctor", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("experiments", run_name="__main__")
    assert end.value.code == status
    *lines, verdict = capsys.readouterr().out.splitlines()
    assert [line[:4].strip() in ("ok", "warn", "FAIL") for line in lines] == [True] * len(lines)
    assert verdict == ("correct what failed (1) before a run" if status else "a run can start")


def test_an_environment_without_packages_is_a_finding_and_the_heavy_ones_are_not_loaded() -> None:
    python = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    bare = python([sys.executable, "-S", "-m", "experiments", "doctor"])
    assert bare.returncode == 1 and bare.stderr == ""
    assert "FAIL  packages: cannot be checked: No module named 'packaging'; run `make venv`" in bare.stdout
    code = "import sys; from experiments.doctor import examine; [*examine()]; print({'torch', 'flwr'} & {*sys.modules})"
    assert python([sys.executable, "-c", code]).stdout == "set()\n"
