"""Certificates and keys: a certificate authority, the SuperLink's certificate, and a key pair for each SuperNode.

All files are PEM or OpenSSH, which Flower and openssl read. Only their owner can read private files. A valid file is
kept, so every function may be called again.
"""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from partitions.errors import UserError

AUTHORITY_DAYS, SERVER_DAYS, RENEW_DAYS = 3650, 365, 30
ADMITTED = "devices"  # folder of the public keys of devices that may use this server


class DeployError(UserError):
    """A step of a deployment is impossible; the message says what to do."""


def certificates(folder: Path, hosts: Sequence[str]) -> bool:
    """Write ``ca.crt``, ``ca.key``, ``server.pem`` and ``server.key`` for a SuperLink with these host names.

    Returns:
        Whether a server certificate was made. One for the same hosts that is valid for another month is kept. An
        existing authority is always kept, because devices have its certificate.

    Raises:
        DeployError: there are no hosts, a host is neither a name nor an address, or the authority is damaged.
    """
    names = _names(hosts)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("ca.crt", "ca.key", "server.pem", "server.key")]
    if not paths[0].exists() and not paths[1].exists():
        _authority(*paths[:2])
    try:
        authority = x509.load_pem_x509_certificate(paths[0].read_bytes())
        signer = load_pem_private_key(paths[1].read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise DeployError(
            f"{folder} has only half of a certificate authority, or a broken one ({error}): restore ca.crt and ca.key, "
            "or remove both and give the new ca.crt to every device"
        ) from None
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    if paths[3].exists() and _good(paths[2], names):
        return False
    key = ec.generate_private_key(ec.SECP384R1())
    _private(paths[3], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    builder = _builder(hosts[0], SERVER_DAYS, key.public_key(), authority.subject)
    for extension, critical in (
        (x509.SubjectAlternativeName(names), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    paths[2].write_bytes(builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM))
    return True


def node_key(folder: Path, name: str) -> bool:
    """Write the P-384 key pair ``keys/NAME`` and ``keys/NAME.pub`` unless it exists. Return whether it was written.

    Raises:
        DeployError: the name cannot be that of a file, or one file of the pair is missing.
    """
    private, public = folder / "keys" / name, folder / "keys" / f"{name}.pub"
    if not valid_name(name):
        raise DeployError(f"'{name}' cannot name a node: use letters, digits, '-' and '_'")
    if private.exists() and public.exists():
        return False
    if private.exists() or public.exists():
        raise DeployError(f"only one of {private} and {public.name} is there: restore the other or remove it")
    private.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    _private(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + f" {name}\n".encode())
    return True


def valid_name(name: str) -> bool:
    """Return whether a device may have this name, which is also that of a file."""
    return name.replace("-", "").replace("_", "").isalnum()


def admit_key(folder: Path, public: Path) -> bool:
    """Copy a public key to ``devices/NAME.pub``, so that it may use what this server serves. Return whether it is new.

    Raises:
        DeployError: the file is no such key, or another key has this name.
    """
    content, target = public.read_bytes(), folder / ADMITTED / f"{public.stem}.pub"
    try:
        key = load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not valid_name(public.stem):
        raise DeployError(f"{public} is no public key of a device: make NAME.pub with `deploy key NAME` on the device")
    if target.exists():
        if target.read_bytes().split()[:2] != content.split()[:2]:
            raise DeployError(
                f"{public.stem} is registered with another key: if it is no longer valid, remove {target}"
            )
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return True


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    if not hosts:
        raise DeployError("name every host name and address under which devices and you reach the SuperLink")
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not host.isascii() or not host.replace("-", "").replace(".", "").isalnum():
                raise DeployError(f"'{host}' is neither a host name nor an address (no port, no https://)") from None
            names.append(x509.DNSName(host))
    return names


def _good(certificate: Path, names: list[x509.GeneralName]) -> bool:
    """Return whether a server certificate is for exactly these hosts and valid for another month."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return False
    named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(named) == set(names) and found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=RENEW_DAYS)


def _authority(certificate: Path, private: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    _private(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    name = "DriftFed authority"
    builder = _builder(
        name, AUTHORITY_DAYS, key.public_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    usage = dict.fromkeys(
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement encipher_only "
        "decipher_only".split(),
        False,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    certificate.write_bytes(builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))


def _builder(name: str, days: int, key: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # a device's clock may be a little behind
        .not_valid_after(now + timedelta(days=days))
    )


def _private(path: Path, content: bytes) -> None:
    """Write a file that other users cannot read at any moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    path.chmod(0o600)
