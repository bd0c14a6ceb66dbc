"""Keep proxies out of the connections to a SuperLink, which is on this machine or on the same network.

Flower's HTTP client and gRPC send everything to the proxy that the shell names, also what is for 127.0.0.1. Entries of
NO_PROXY are host names and addresses: Flower's client understands neither networks (10.0.0.0/8) nor brackets.
"""

from __future__ import annotations  # an old Python must get as far as its finding

from collections.abc import Mapping

LOCAL = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")


def direct(environ: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """Return an environment whose processes reach this machine and ``hosts`` without a proxy.

    SOCKS proxies are left out: with one, Flower's HTTP client does not start.
    """
    kept = {name: value for name, value in environ.items() if not _is_socks(name, value)}
    known = [entry for name in EXCEPTIONS for entry in _entries(environ.get(name, ""))]
    exceptions = ",".join(dict.fromkeys([*known, *LOCAL, *(host.strip("[]") for host in hosts)]))
    return kept | dict.fromkeys(EXCEPTIONS, exceptions)


def proxied(environ: Mapping[str, str], *hosts: str) -> list[str]:
    """Return the variables by which Flower's own commands would send a connection to one of ``hosts`` to a proxy."""
    counts = next((environ[name] for name in EXCEPTIONS if name in environ), "")  # of two, the lower-case name
    entries = set(_entries(counts))
    direct_already = "*" in entries or entries >= set(hosts)
    return [
        name
        for name, value in environ.items()
        if name.lower() in PROXIES and value and (_is_socks(name, value) or not direct_already)
    ]


def host_of(address: str) -> str:
    """Return the host of ``host:port``."""
    return address.rpartition(":")[0].strip("[]")


def _entries(exceptions: str) -> list[str]:
    """Return host names, and addresses without brackets."""
    return [entry for part in exceptions.split(",") if (entry := part.strip().strip("[]"))]


def _is_socks(name: str, value: str) -> bool:
    return name.lower() in PROXIES and value.lower().startswith("socks")
