"""Who may connect: both ends prove who they are, and whoever fails closes only its own connection."""

import socket
import ssl
from pathlib import Path

import pytest

from experiments.deploy.identity import DeployError, admit_key, certificates, node_key
from experiments.serving import secure
from experiments.serving.link import Stream
from experiments.serving.secure import Challenge, CloudGone, CloudRefuses, Proof, connect
from experiments.serving.wire import Wire
from models.spa.codec import PREFIX, Frame
from tests.experiments.serving.conftest import listening


def greet(stream: Stream, name: str) -> None:
    """Return each frame with the device's name."""
    while True:
        frame, _ = stream.receive()
        stream.send(Frame(frame.kind, {"name": name, **frame.head}))


def says(stream: Stream) -> str:
    stream.send(Frame("hello"))
    return stream.receive()[0].head["name"]


def test_a_registered_device_is_known_by_name_and_every_byte_is_counted(machine: Path) -> None:
    with listening(machine, greet) as server:
        stream = connect(server.address, machine)
        before = stream.wire.sent, stream.wire.received
        assert says(stream) == "pi0"
        assert stream.wire.sent > before[0] + len(Frame("hello").to_bytes())  # TLS adds its records
        assert stream.wire.received > before[1]
        stream.close()


def test_strangers_are_refused_and_others_go_on(machine: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with listening(machine, greet) as server:
        good = connect(server.address, machine)
        with pytest.raises(DeployError, match="has no key: run `python -m experiments deploy key NAME`"):
            connect(server.address, elsewhere)
        node_key(elsewhere, "pi0")  # the name of a registered device, with a key of its own
        with pytest.raises(DeployError, match="copy it from the server"):
            connect(server.address, elsewhere)
        (elsewhere / "ca.crt").write_bytes((machine / "ca.crt").read_bytes())
        with pytest.raises(CloudRefuses, match="no key 'pi0' with this signature is registered: run `deploy register"):
            connect(server.address, elsewhere)
        node_key(machine, "pi1")
        with pytest.raises(DeployError, match=r"several keys \(pi0, pi1\): choose one with --key"):
            connect(server.address, machine)
        with pytest.raises(CloudRefuses, match="no key 'pi1'"):
            connect(server.address, machine, "pi1")
        admit_key(machine, machine / "keys" / "pi1.pub")  # the server need not restart
        other = connect(server.address, machine, "pi1")
        assert (says(good), says(other)) == ("pi0", "pi1")
        (machine / "devices" / "pi1.pub").unlink()
        with pytest.raises(CloudRefuses, match="no key 'pi1'"):
            connect(server.address, machine, "pi1")
        good.close()
        other.close()


def test_a_server_that_the_authority_does_not_know_is_refused(
    machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    false = tmp_path_factory.mktemp("false")
    certificates(false, ["localhost", "127.0.0.1"])
    with listening(false, greet) as server, pytest.raises(CloudRefuses, match="certificate of .* is not good"):
        connect(server.address, machine)
    (machine / "server.pem").unlink()
    certificates(machine, ["lab.local"])  # of the right authority, for another host
    with listening(machine, greet) as server, pytest.raises(CloudRefuses, match="deploy certificates 127.0.0.1"):
        connect(server.address, machine)
    with pytest.raises(CloudGone, match="no cloud answers at 127.0.0.1:1 .*; start one there"):
        connect(("127.0.0.1", 1), machine)
    (machine / "ca.crt").write_text("no certificate")
    with pytest.raises(DeployError, match="is no certificate: copy it from the server again"):
        connect(("127.0.0.1", 1), machine)
    (machine / "server.key").unlink()
    with pytest.raises(DeployError, match="run `python -m experiments deploy certificates HOST`"):
        secure.Server(("127.0.0.1", 0), machine, greet)


@pytest.mark.parametrize(
    ("name", "signature"),
    [("pi0", "00"), ("pi0", "no hex"), ("../keys/pi0", "00"), ("", ""), ("pi0\x00", "00"), ("x" * 300, "00")],
)
def test_false_proofs_are_refused(machine: Path, name: str, signature: str) -> None:
    tls = ssl.create_default_context(cafile=str(machine / "ca.crt"))
    with listening(machine, greet) as server:
        wire = Wire(socket.create_connection(server.address), tls, "127.0.0.1")
        wire.handshake()
        stream = Stream(wire)
        Challenge.of(stream.receive()[0])
        stream.send(Proof(name=name, signature=signature).frame())
        assert stream.receive()[0].kind == "refused"
        with pytest.raises((EOFError, OSError)):
            stream.receive()
        stream.close()
        good = connect(server.address, machine)
        assert says(good) == "pi0"
        good.close()


def test_a_signature_holds_for_one_challenge(machine: Path) -> None:
    tls, streams = ssl.create_default_context(cafile=str(machine / "ca.crt")), []
    with listening(machine, greet) as server:
        for _ in range(2):
            wire = Wire(socket.create_connection(server.address), tls, "127.0.0.1")
            wire.handshake()
            streams.append(Stream(wire))
        nonces = [Challenge.of(stream.receive()[0]).nonce for stream in streams]
        assert nonces[0] != nonces[1]
        for stream in streams:
            stream.close()


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"", PREFIX.pack(2**31) + bytes(9), b"\x16\x03\x01" + b"\xff" * 99]
)
def test_whoever_speaks_no_tls_or_nothing_is_dropped(
    machine: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure, "HANDSHAKE_S", 0.3 if not data else 10.0)
    with listening(machine, greet) as server, socket.create_connection(server.address, timeout=20) as stranger:
        stranger.sendall(data)
        while stranger.recv(1000):
            pass
        monkeypatch.setattr(secure, "HANDSHAKE_S", 10.0)
        good = connect(server.address, machine)
        assert says(good) == "pi0"
        good.close()
