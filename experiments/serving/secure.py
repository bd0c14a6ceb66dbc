"""Encryption and mutual authentication with the files that `python -m experiments deploy` makes.

The cloud shows the certificate ``server.pem``, which the device checks with ``ca.crt`` and against the cloud's name.
The device then signs a challenge with its key ``keys/NAME``, which the cloud checks with ``devices/NAME.pub``: the
public keys that `deploy register` admitted. The signature covers the certificate, so a server cannot pass it on to
another.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from logging import getLogger
from pathlib import Path
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from experiments.deploy.identity import ADMITTED, DeployError, valid_name
from experiments.serving.link import Stream
from experiments.serving.messages import HEAD_BYTES, Head, Refused, printable
from experiments.serving.wire import Wire
from models.spa.codec import Frame, FrameError
from partitions.errors import UserError, one_line

HANDSHAKE_S = 10.0  # for TLS and the proof together
DRAIN_S = 1.0
MOST_DEVICES, MOST_STRANGERS = 256, 32  # connections at a time, after and before the proof
ALGORITHM = ec.ECDSA(hashes.SHA384())

log = getLogger(__name__)


class CloudGone(UserError):
    """The cloud cannot be reached now; it may come back."""


class CloudRefuses(UserError):
    """The cloud, or its certificate, is not the one that this device may use, or the cloud does not want it."""


class Challenge(Head):
    """The cloud asks for a signature. Args: nonce: 64 hex digits."""

    nonce: str


class Proof(Head):
    """A device's name, and its signature (hex)."""

    name: str
    signature: str


class Admitted(Head):
    """The proof is right."""


def connect(address: tuple[str, int], folder: Path, name: str = "") -> Stream:
    """Connect a device to a cloud, both authenticated.

    Args:
        folder: of this machine's ``ca.crt`` and ``keys``.
        name: of the device's key; by default the only one.

    Raises:
        DeployError: a file is missing.
        CloudGone, CloudRefuses: there is no connection; the message says why.
    """
    where, key = f"{address[0]}:{address[1]}", _private_key(folder, name)
    if not (folder / "ca.crt").is_file():
        raise DeployError(f"{folder / 'ca.crt'} is missing: copy it from the server")
    try:
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    except OSError:  # also of OpenSSL
        raise DeployError(f"{folder / 'ca.crt'} is no certificate: copy it from the server again") from None
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    deadline = time.monotonic() + HANDSHAKE_S
    wire = None
    try:
        wire = Wire(socket.create_connection(address, timeout=HANDSHAKE_S), tls, address[0])
        certificate = wire.handshake(deadline)
        stream = Stream(wire)
        nonce = Challenge.of(stream.receive(deadline - time.monotonic(), HEAD_BYTES)[0]).nonce
        signature = key[1].sign(_signed(nonce, certificate), ALGORITHM)
        stream.send(Proof(name=key[0], signature=signature.hex()).frame())
        reply, _ = stream.receive(deadline - time.monotonic(), HEAD_BYTES)
        Admitted.of(not_refused(reply, f"the cloud at {where}"))
        return stream
    except BaseException as error:
        if wire is not None:
            wire.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            raise CloudRefuses(
                f"the certificate of {where} is not good ({error.verify_message}): copy the server's ca.crt to "
                f"{folder}, and make the certificate with `deploy certificates {address[0]}` there"
            ) from None
        if isinstance(error, ssl.SSLError | FrameError):
            raise CloudRefuses(
                f"what answers at {where} is no cloud ({one_line(error)}): check host and port"
            ) from None
        if isinstance(error, OSError | EOFError):
            reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            raise CloudGone(f"no cloud answers at {where} ({reason}); start one there with: spa cloud") from None
        raise


def not_refused(frame: Frame, who: str = "the cloud") -> Frame:
    """Return a frame of a cloud. CloudRefuses: it says why the cloud does not want this device."""
    if frame.kind == Refused.kind():
        raise CloudRefuses(f"{who} refuses this device: {Refused.of(frame).why}")
    return frame


class Server:
    """Listen for admitted devices, and serve each in a thread. A device that fails ends its own connection only.

    Args:
        address: to listen at; port 0: a free one.
        folder: of ``server.pem``, ``server.key`` and ``devices``, which is read anew for each device.
        serve: called with the stream and the name of an admitted device. What it raises ends the connection, and if it
            is a FrameError or ValueError, the device is told why.

    Raises:
        DeployError: there is no certificate, or the address cannot be used.
    """

    def __init__(self, address: tuple[str, int], folder: Path, serve: Callable[[Stream, str], None]):
        self._folder, self._serve, self._lock = folder, serve, threading.Lock()
        self._open: set[Stream] = set()
        self._strangers, self._devices = (threading.BoundedSemaphore(n) for n in (MOST_STRANGERS, MOST_DEVICES))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version, self._tls.num_tickets = ssl.TLSVersion.TLSv1_3, 0
        try:
            self._tls.load_cert_chain(folder / "server.pem", folder / "server.key")
            self._certificate = ssl.PEM_cert_to_DER_cert((folder / "server.pem").read_text())
        except (OSError, ValueError):
            raise DeployError(
                f"{folder} has no server.pem and server.key that fit: run `python -m experiments deploy certificates "
                "HOST`, with the names under which devices reach this machine"
            ) from None
        try:
            self._listener = socket.create_server(address, family=_family(address))
        except OSError as error:
            raise DeployError(
                f"cannot listen at {address[0]}:{address[1]} ({error.strerror}): choose an address of this machine and "
                "a free port"
            ) from None
        self.address: tuple[str, int] = self._listener.getsockname()[:2]

    def run(self) -> None:
        """Serve until `close`."""
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                time.sleep(0.1)  # too many open files: wait until a device leaves
                continue
            if not self._strangers.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._meet, args=(connection, peer[0]), daemon=True).start()

    def close(self) -> None:
        """Close the listener and all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        with self._lock:
            for stream in self._open:
                stream.close()

    def _meet(self, connection: socket.socket, peer: str) -> None:
        try:
            stream = Stream(Wire(connection, self._tls))
        except OSError:  # the other end was gone before we began
            self._strangers.release()
            connection.close()
            return
        with self._lock:
            self._open.add(stream)
        name, waiting = f"a stranger at {peer}", True
        try:
            name = self._authenticate(stream)
            self._strangers.release()
            waiting = False
            if not self._devices.acquire(blocking=False):
                raise FrameError(f"{MOST_DEVICES} devices are connected, which is the limit: try again later")
            try:
                stream.send(Admitted().frame())
                log.info("%s connected", name)
                self._serve(stream, name)
            finally:
                self._devices.release()
        except (EOFError, OSError) as error:
            log.info("%s is gone: %s", name, one_line(error) or type(error).__name__)
        except (FrameError, ValueError) as error:
            why = printable(str(error))[:1000]  # it may quote what the device sent
            log.warning("%s was refused: %s", name, why)
            with suppress(OSError, EOFError):
                stream.send(Refused(why=why).frame(), timeout=1.0)
                deadline = time.monotonic() + DRAIN_S
                while True:  # closing with unread bytes would reset the connection, and lose the reason
                    stream.wire.read(deadline)
        except Exception:
            log.exception("%s lost its connection, because serving it failed", name)
        finally:
            if waiting:
                self._strangers.release()
            with self._lock:
                self._open.discard(stream)
            stream.close()

    def _authenticate(self, stream: Stream) -> str:
        """Return the name of the device at the other end. FrameError, EOFError, OSError: it has none, or no key."""
        deadline = time.monotonic() + HANDSHAKE_S
        stream.wire.handshake(deadline)
        nonce = os.urandom(32).hex()
        stream.send(Challenge(nonce=nonce).frame(), HANDSHAKE_S)
        proof = Proof.of(stream.receive(deadline - time.monotonic(), HEAD_BYTES)[0])
        file = self._folder / ADMITTED / f"{proof.name}.pub"
        try:
            if not valid_name(proof.name):
                raise ValueError
            key = cast(ec.EllipticCurvePublicKey, load_ssh_public_key(file.read_bytes()))  # `admit_key` checked it
            key.verify(bytes.fromhex(proof.signature), _signed(nonce, self._certificate), ALGORITHM)
        except (OSError, ValueError, InvalidSignature):
            raise FrameError(
                f"no key '{proof.name[:64]}' with this signature is registered: run `deploy register {proof.name[:64]}"
                ".pub --serving` on the server"
            ) from None
        return proof.name


def _signed(nonce: str, certificate: bytes) -> bytes:
    """Return what a device signs; the prefix keeps the signature from meaning anything elsewhere."""
    return b"DriftFed serving 1\n" + nonce.encode() + sha256(certificate).digest()


def _private_key(folder: Path, name: str) -> tuple[str, ec.EllipticCurvePrivateKey]:
    """Return the name and the key of this device."""
    names = [name] if name else sorted(path.stem for path in (folder / "keys").glob("*.pub"))
    if len(names) != 1:
        found = f"has several keys ({', '.join(names)}): choose one with --key" if names else "has no key"
        raise DeployError(f"{folder} {found}" + ("" if names else ": run `python -m experiments deploy key NAME`"))
    try:
        key = load_ssh_private_key((folder / "keys" / names[0]).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("it is of another kind")
        return names[0], key
    except (OSError, ValueError) as error:
        raise DeployError(
            f"the key '{names[0]}' in {folder / 'keys'} cannot be read ({one_line(error)}): make one with "
            f"`python -m experiments deploy key {names[0]}`"
        ) from None


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET
