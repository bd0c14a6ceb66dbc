"""Certificates that TLS accepts for the right host alone, and keys that Flower reads."""

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from flwr.cli.supernode.register import try_load_public_key

from experiments.deploy.identity import DeployError, certificates, node_key


def handshake(folder: Path, host: str, authority: Path) -> None:
    """A TLS handshake with a server of ``folder`` that the client knows as ``host``."""
    server_side, client_side = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")

    def serve() -> None:
        try:
            server.wrap_socket(server_side, server_side=True).close()
        except OSError:
            server_side.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ssl.create_default_context(cafile=str(authority)).wrap_socket(client_side, server_hostname=host).close()
    finally:
        client_side.close()
        thread.join()


def test_devices_accept_the_server_under_its_names_alone(tmp_path) -> None:
    assert certificates(tmp_path / "a", ["lab.local", "192.0.2.7"])
    for host in ("lab.local", "192.0.2.7"):
        handshake(tmp_path / "a", host, tmp_path / "a" / "ca.crt")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path / "a", "evil.local", tmp_path / "a" / "ca.crt")
    certificates(tmp_path / "b", ["lab.local"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "b", "lab.local", tmp_path / "a" / "ca.crt")


def test_what_is_good_is_kept_and_the_authority_always(tmp_path) -> None:
    names = ("ca.crt", "ca.key", "server.pem", "server.key")
    certificates(tmp_path, ["lab.local"])
    first = {name: (tmp_path / name).read_bytes() for name in names}
    assert not certificates(tmp_path, ["lab.local"])
    assert {name: (tmp_path / name).read_bytes() for name in names} == first

    assert certificates(tmp_path, ["lab.local", "other.local"])  # other hosts: a new certificate, the same authority
    changed = {name for name in names if (tmp_path / name).read_bytes() != first[name]}
    assert changed == {"server.pem", "server.key"}
    handshake(tmp_path, "other.local", tmp_path / "ca.crt")


def test_a_certificate_that_soon_ends_is_renewed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("experiments.deploy.identity.SERVER_DAYS", 29)
    certificates(tmp_path, ["lab.local"])
    monkeypatch.setattr("experiments.deploy.identity.SERVER_DAYS", 365)
    assert certificates(tmp_path, ["lab.local"])
    made = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    assert (made.not_valid_after_utc - made.not_valid_before_utc).days == 365


def test_private_files_are_private(tmp_path) -> None:
    certificates(tmp_path, ["lab.local"])
    node_key(tmp_path, "pi0")
    for name in ("ca.key", "server.key", "keys/pi0"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ([], "name every host"),
        (["https://lab"], "no port, no https"),
        (["lab:8000"], "no port"),
        (["lab local"], "neither"),
    ],
)
def test_hosts_that_are_none(tmp_path, hosts, said) -> None:
    with pytest.raises(DeployError, match=said):
        certificates(tmp_path, hosts)


def test_half_an_authority_is_not_replaced(tmp_path) -> None:
    certificates(tmp_path, ["lab.local"])
    (tmp_path / "ca.key").unlink()
    with pytest.raises(DeployError, match=r"half of a certificate authority.*restore ca\.crt and ca\.key"):
        certificates(tmp_path, ["lab.local", "other.local"])
    assert not (tmp_path / "ca.key").exists()


def test_flower_takes_a_node_key_and_it_is_kept(tmp_path) -> None:
    assert node_key(tmp_path, "pi-0")
    pair = [(tmp_path / "keys" / name).read_bytes() for name in ("pi-0", "pi-0.pub")]
    assert b"OPENSSH PRIVATE KEY" in pair[0]
    assert try_load_public_key(tmp_path / "keys" / "pi-0.pub")
    assert not node_key(tmp_path, "pi-0")
    assert [(tmp_path / "keys" / name).read_bytes() for name in ("pi-0", "pi-0.pub")] == pair
    node_key(tmp_path, "pi-1")
    assert (tmp_path / "keys" / "pi-1.pub").read_bytes() != pair[1]
    (tmp_path / "keys" / "pi-1").unlink()
    with pytest.raises(DeployError, match="only one of"):
        node_key(tmp_path, "pi-1")
    with pytest.raises(DeployError, match="cannot name a node"):
        node_key(tmp_path, "../pi")
