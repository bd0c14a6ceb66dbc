"""Measure the speed of a device's link by sending a megabyte to the SuperLink."""

import http.client
import os
import time
from contextlib import closing
from pathlib import Path

from experiments.deploy.identity import DeployError
from experiments.deploy.service import connect

PAYLOAD = 1_000_000  # bytes


def time_link(address: str, authority: Path | None) -> float:
    """Return Mbit/s from this machine to the SuperLink at ``address``, with TLS.

    The SuperLink reads a payload before it answers the next request on the connection. So the time of the payload is
    the time from its first byte to that answer, minus the time of requests without a payload.

    Raises:
        DeployError: the SuperLink does not answer.
    """
    try:
        with closing(connect(address, authority, timeout=120.0)) as connection:
            _get(connection)  # opens the connection
            started = time.perf_counter()
            _get(connection)
            empty = time.perf_counter() - started
            started = time.perf_counter()
            connection.request("POST", "/health", os.urandom(PAYLOAD), {"Content-Type": "application/octet-stream"})
            connection.getresponse().read()
            _get(connection)
            took = time.perf_counter() - started - 2 * empty
    except OSError as error:
        raise DeployError(f"the link to {address} cannot be timed ({error}): give --link-mbit-s") from None
    return round(8 * PAYLOAD / 1e6 / max(took, 1e-4), 3)


def _get(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/health")
    connection.getresponse().read()
