"""The port for devices against its attack: a stranger who has the public certificate and a Flower home of their own."""

import http.client
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.deploy.commands import app
from experiments.deploy.flower import admit, write_connection
from experiments.deploy.identity import DeployError, node_key
from experiments.deploy.service import environment, script
from experiments.hermetic import free_port


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, int]]:
    """A running SuperLink: its folder, its port for devices, and its control port."""
    folder, device_port, control_port = tmp_path_factory.mktemp("lab"), free_port(), free_port()
    CliRunner().invoke(app, ["certificates", "localhost", "--folder", str(folder)], catch_exceptions=False)
    words = ["superlink", "--port", str(device_port), "--control-port", str(control_port), "--folder", str(folder)]
    said = CliRunner().invoke(app, words, catch_exceptions=False).output
    assert f"devices reach it on 0.0.0.0:{device_port}" in said
    yield folder, device_port, control_port
    CliRunner().invoke(app, ["stop", "--folder", str(folder)], catch_exceptions=False)


@pytest.fixture
def ask(lab: tuple[Path, int, int]) -> Callable[[str, str], tuple[int, bytes]]:
    """Sends a request to the port for devices as it is written, without any normalisation of its path."""
    folder, port, _ = lab

    def _ask(method: str, path: str) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)) as connection:
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", "localhost")
            connection.putheader("Content-Length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read()

    return _ask


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/pull-messages", "/docs", "/openapi.json",
        "/v1/fleet/../control/start-run", "/v1/fleet/..%2fcontrol%2fstart-run", "//v1/control/start-run", "/v1/fleet/",
        "/", "/V1/CONTROL/start-run", "/v1/fleet/%2e%2e/control/start-run", "https://localhost/v1/control/start-run",
        "/v1/fleet/pull-messages/../../control/start-run", "/v1/control/start-run?/v1/fleet/pull-messages",
    ],
)  # fmt: skip
def test_only_the_paths_of_devices_pass(ask: Callable, path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        assert ask(method, path)[0] in (403, 404, 405), (method, path)
        assert b"code" not in ask(method, path)[1].lower()


def test_devices_reach_the_superlink(ask: Callable) -> None:
    assert ask("GET", "/health")[0] == 200
    status, body = ask("POST", "/v1/fleet/activate-node")  # without a key: it is Flower that refuses
    assert status != 403 and body != b"this port is for SuperNodes"


def test_strangers_that_send_half_a_request_keep_no_device_out(lab: tuple[Path, int, int], ask: Callable) -> None:
    folder, port, _ = lab
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    with ExitStack() as open_:
        for _ in range(120):
            slow = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
            open_.enter_context(closing(slow))
            slow.putrequest("POST", "/v1/fleet/pull-messages")
            slow.putheader("Content-Length", "9")
            slow.endheaders(b"0")
        assert ask("GET", "/health")[0] == 200


def test_a_stranger_registers_no_key_and_runs_nothing(lab: tuple[Path, int, int], tmp_path: Path) -> None:
    """The attack: the public certificate, a fresh Flower home, a key of one's own, and the address of the devices."""
    folder, port, _ = lab
    node_key(tmp_path, "evil")
    write_connection(tmp_path / "home", "lab", f"127.0.0.1:{port}", folder / "ca.crt")
    env = {"FLWR_HOME": str(tmp_path / "home")}
    with pytest.raises(DeployError, match="was not registered"):
        list(admit([tmp_path / "keys" / "evil.pub"], "lab", env))
    evil = tmp_path / "evilapp"
    evil.mkdir()
    (evil / "pyproject.toml").write_text(
        '[project]\nname = "evil"\nversion = "1.0.0"\nlicense = "Apache-2.0"\n[tool.flwr.app]\npublisher = "evil"\n'
        '[tool.flwr.app.components]\nserverapp = "evil:app"\nclientapp = "evil:app"\n'
    )
    (evil / "evil.py").write_text("app = None\n")
    command, own = [script("flwr"), "run", str(evil), "lab"], environment(tmp_path) | env
    done = subprocess.run(command, env=own, check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "403" in done.stdout + done.stderr
    log = (folder / "superlink" / "log").read_text()
    assert "/v1/control" not in log


def test_who_connects_to_the_port_of_devices_is_told_where_the_control_port_is(
    lab: tuple[Path, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, port, control = lab
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    with pytest.raises(DeployError, match="is the port for devices: on the server, leave the address out"):
        CliRunner().invoke(app, ["connect", f"127.0.0.1:{port}", "--folder", str(folder)], catch_exceptions=False)
    words = ["connect", f"127.0.0.1:{control}", "--folder", str(folder)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0


def test_two_supernodes_of_a_machine_behind_a_dead_proxy(
    lab: tuple[Path, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, port, control = lab
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "socks5://127.0.0.1:9")
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))

    def deploy(*words: str) -> str:
        said = CliRunner().invoke(app, [*words, "--folder", str(folder)], catch_exceptions=False)
        assert said.exit_code == 0
        return said.output

    deploy("connect", f"127.0.0.1:{control}")
    deploy("key", "pi0", "pi1")
    assert deploy("register", "pi0", "pi1").count("registered, node ") == 2
    start = ["supernode", "--superlink", f"localhost:{port}", "--link-mbit-s", "9"]
    for device in ("0", "1"):
        assert f"started as device {device}, " in deploy(*start, f"pi{device}", "--device", device)
    assert "bound to device 2" in deploy("register", "pi1", "--device", "2")
    with pytest.raises(DeployError, match="device 2 cannot be bound, it is pi1's"):
        deploy("register", "pi0", "--device", "2")
    with pytest.raises(DeployError, match="several keys were given: give one key"):
        deploy("register", "pi0", "pi1", "--device", "0")
    said = deploy("status").split()
    assert said.count("online") == 2 and said.count("any") == said.count("2") == 1
    assert "runs already" in deploy(*start, "pi1", "--device", "1")
    again = deploy(*start, "pi1", "--device", "2")
    assert "restarts with --device changed" in again and "started as device 2, " in again
    assert (folder / "supernodes" / "pi1" / "node.toml").read_text().startswith("partition-id = 2\n")
    with pytest.raises(DeployError, match=f"runs with --port {port}: `deploy stop superlink gate` stops it"):
        deploy("superlink", "--port", str(free_port()), "--control-port", str(control))
    assert deploy("stop", "pi0", "pi1").count("stopped") == 2
