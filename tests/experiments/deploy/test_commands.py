"""The connection entry, the link's speed, the unit: what the commands write and measure."""

import http.server
import re
import shutil
import subprocess
import threading
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.deploy.commands import app
from experiments.deploy.flower import write_connection
from experiments.deploy.identity import DeployError, certificates, node_key
from experiments.deploy.link import PAYLOAD, time_link


def test_a_connection_leaves_the_others_alone(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\noptions.num-supernodes = 5\n'
    )
    for address in ("old:1", "lab.local:8000", "lab.local:8000"):
        assert write_connection(tmp_path, "lab", address, Path("/certs/ca.crt")) == path
    table = tomllib.loads(path.read_text())["superlink"]
    assert table == {
        "default": "local",
        "local": {"address": ":local:", "options": {"num-supernodes": 5}},
        "lab": {"address": "lab.local:8000", "root-certificates": "/certs/ca.crt"},
    }
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("[superlink")
    with pytest.raises(DeployError, match="correct it or remove it"):
        write_connection(tmp_path, "lab", "lab.local:8000", Path("/certs/ca.crt"))
    assert path.read_text() == "[superlink"


class Slow(http.server.BaseHTTPRequestHandler):
    """Reads what it is sent at 32 Mbit/s."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        begun, whole = time.perf_counter(), left
        while left:
            left -= len(self.rfile.read(min(left, 50_000)))
            time.sleep(max(0.0, begun + 8 * (whole - left) / 32e6 - time.perf_counter()))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_link_is_timed() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert time_link(f"127.0.0.1:{server.server_port}", None) == pytest.approx(32, rel=0.25)
        finally:
            server.shutdown()
            thread.join()
    assert PAYLOAD == 1_000_000
    with pytest.raises(DeployError, match="give --link-mbit-s"):
        time_link("127.0.0.1:1", None)
    with pytest.raises(DeployError, match="write host:port"):
        time_link("lab.local", None)


def test_a_unit_runs_the_same_command_in_the_foreground(tmp_path) -> None:
    words = ["supernode", "pi0", "--superlink", "lab:8000", "--device", "0", "--class", "Raspberry Pi 4B"]
    said = CliRunner().invoke(app, ["unit", "--folder", str(tmp_path), "--", *words])
    assert said.exit_code == 0
    assert "@" not in said.output
    (line,) = [line for line in said.output.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith('deploy supernode pi0 --superlink lab:8000 --device 0 --class "Raspberry Pi 4B" --foreground')
    assert f"Environment=DRIFTFED_DEPLOY={tmp_path}" in said.output


def test_a_unit_survives_odd_names_and_systemd_finds_nothing_wrong(tmp_path) -> None:
    folder = tmp_path / "50 % of it"
    words = ["supernode", "pi0", "--superlink", "lab:8000", "--device", "0", "--data", 'a "b" $HOME\\c']
    said = CliRunner().invoke(app, ["unit", "--folder", str(folder), "--", *words])
    assert f'Environment="DRIFTFED_DEPLOY={tmp_path}/50 %% of it"' in said.output
    assert '--device 0 --data "a \\"b\\" $$HOME\\\\c" --foreground' in said.output
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "driftfed.service"
        unit.write_text(said.output)
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["superlink"], "ca.crt is missing: run `python -m experiments deploy certificates HOST` first"),
        (
            ["supernode", "pi0", "--superlink", "lab:8000", "--device", "0"],
            "ca.crt is missing: copy it from the server",
        ),
        (["register", "pi0.pub"], "make NAME.pub with `deploy key NAME` on the device"),
        (["stop", "pi7"], "'pi7' was never started here; known: nothing"),
        (["unit", "key"], "'key' is no service"),
    ],
)
def test_what_is_missing_is_named(tmp_path, words, said) -> None:
    with pytest.raises(DeployError, match=said):
        CliRunner().invoke(app, [*words, "--folder", str(tmp_path)], catch_exceptions=False)


def test_a_superlink_that_is_stopped_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    for port, why in ((None, "no connection 'lab' on this machine"), (1, "does not answer at 127.0.0.1:1 .*Errno 111")):
        if port:
            write_connection(tmp_path, "lab", f"127.0.0.1:{port}", tmp_path / "ca.crt")
            certificates(tmp_path, ["127.0.0.1"])
        said = CliRunner().invoke(app, ["status", "--folder", str(tmp_path)])
        assert said.exit_code == 0 and re.search(why, said.output) and "{" not in said.output
        node_key(tmp_path, "pi0")
        with pytest.raises(DeployError, match=why):
            CliRunner().invoke(app, ["register", "pi0", "--folder", str(tmp_path)], catch_exceptions=False)


def test_a_supernode_needs_its_key_and_its_data(tmp_path) -> None:
    (tmp_path / "ca.crt").touch()
    words = ["supernode", "pi0", "--superlink", "lab:8000", "--device", "0", "--folder", str(tmp_path)]
    with pytest.raises(DeployError, match="run `python -m experiments deploy key pi0`"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "pi0").touch()
    with pytest.raises(DeployError, match="it has no classes.txt"):
        CliRunner().invoke(app, [*words, "--data", str(tmp_path / "none")], catch_exceptions=False)


def test_the_image_is_given_all_that_its_build_needs() -> None:
    project, copied = Path(__file__).parents[3], []
    for line in (project / "experiments" / "deploy" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            copied += line.split()[1:-1]
    wheel = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = ["pyproject.toml", "README.md", *wheel["packages"], *wheel["shared-data"]]
    assert [path for path in needed if path not in copied and path.split("/")[0] not in copied] == []
    assert all((project / path).exists() for path in copied)


def test_a_key_that_is_registered_for_serving_needs_no_superlink(tmp_path: Path) -> None:
    certificates(tmp_path, ["localhost"])
    node_key(tmp_path, "pi0")
    register = ["register", "pi0", "--serving", "--folder", str(tmp_path)]
    for said in ("pi0: may use what this server serves", "pi0: was registered already"):
        assert said in CliRunner().invoke(app, register).output
    assert (tmp_path / "devices" / "pi0.pub").read_bytes() == (tmp_path / "keys" / "pi0.pub").read_bytes()
    with pytest.raises(DeployError, match="leave out --device or --serving"):
        CliRunner().invoke(app, [*register, "--device", "1"], catch_exceptions=False)
    (tmp_path / "elsewhere").mkdir()
    node_key(tmp_path / "elsewhere", "pi0")
    other = tmp_path / "elsewhere" / "keys" / "pi0.pub"
    with pytest.raises(DeployError, match="pi0 is registered with another key: if it is no longer valid, remove"):
        CliRunner().invoke(app, ["register", str(other), *register[2:]], catch_exceptions=False)
    other.write_text("ssh-rsa AAAA me")
    with pytest.raises(DeployError, match="is no public key of a device"):
        CliRunner().invoke(app, ["register", str(other), *register[2:]], catch_exceptions=False)


def test_data_of_a_device_need_classes_or_its_own_file(tmp_path: Path) -> None:
    node_key(tmp_path, "pi7")
    (tmp_path / "ca.crt").write_text("x")
    words = ["supernode", "pi7", "--superlink", "lab:8000", "--device", "7", "--data", str(tmp_path)]
    with pytest.raises(DeployError, match="no classes.txt and no device-7.jsonl"):
        CliRunner().invoke(app, [*words, "--folder", str(tmp_path)], catch_exceptions=False)
    (tmp_path / "device-7.jsonl").write_text("{}")
    with pytest.raises(DeployError, match="no SuperLink answers"):
        CliRunner().invoke(app, [*words, "--folder", str(tmp_path)], catch_exceptions=False)
