"""What a deployment needs of Flower: commands of SuperLink and SuperNode, connections, registered keys."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import tomli_w

from experiments.deploy.identity import DeployError
from experiments.deploy.service import Service, healthy, script
from experiments.proxies import direct, host_of
from fl.results.files import atomic_write

REFUSED = "[code: 2004]"  # logged if the SuperLink does not know the key, or counts this SuperNode as running
MARK = "=== "  # printed before the result of each key
REGISTER = f"""
import sys
from flwr.cli.app import app  # the command `flwr`: once for all keys, since it takes a second to start

for path in sys.argv[2:]:
    print({MARK!r}, flush=True)
    try:
        app(["supernode", "register", path, sys.argv[1], "--format", "json"], standalone_mode=False)
    except (Exception, SystemExit) as error:
        print(error, flush=True)
"""
ADMITTED = "SuperNode ID:"  # logged when the SuperLink has accepted the SuperNode


def superlink_command(folder: Path, host: str, port: int) -> list[str]:
    """Return the command of a SuperLink with TLS and node authentication, whose certificates are in ``folder``."""
    return [
        "flower-superlink",
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "server.pem")),
        *("--ssl-keyfile", str(folder / "server.key")),
        *("--host", host, "--port", str(port)),
        *("--database", str(folder / "superlink" / "state.db")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def gate_command(folder: Path, host: str, port: int, superlink: str) -> list[str]:
    """Return the command of the port for devices (`experiments.deploy.gate`)."""
    return ["python", "-m", "experiments.deploy.gate", host, str(port), superlink, str(folder)]


def supernode_command(folder: Path, service: Service, superlink: str, port: int) -> list[str]:
    """Return the command of a SuperNode with its key and its node-config."""
    return [
        "flower-supernode",
        *("--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / "keys" / service.name)),
        *("--superlink", superlink, "--port", str(port)),
        *("--node-config", str(service.folder / "node.toml")),
    ]


def write_node(service: Service, values: dict[str, str | int | float]) -> None:
    """Write the node-config of a SuperNode, without values that were not given."""
    given = {k: v for k, v in values.items() if v or k == "partition-id"}
    write_whole(service.folder / "node.toml", tomli_w.dumps(given))


def write_connection(home: Path, name: str, address: str, authority: Path) -> Path:
    """Add or change ``[superlink.NAME]`` of ``home/config.toml``.

    Raises:
        DeployError: the file is not TOML.
    """
    path = home / "config.toml"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DeployError(f"{path} cannot be read ({error}): correct it or remove it") from None
    table = config.setdefault("superlink", {})
    table.setdefault("default", name)
    table[name] = {"address": address, "root-certificates": str(authority)}
    write_whole(path, tomli_w.dumps(config))
    return path


def flower_home(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("FLWR_HOME") or Path.home() / ".flwr").expanduser()


def connections(home: Path) -> dict[str, dict[str, Any]]:
    """Return the connections of ``home/config.toml`` by name."""
    try:
        found = tomllib.loads((home / "config.toml").read_text(encoding="utf-8")).get("superlink", {})
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    return {name: table for name, table in found.items() if isinstance(table, dict)}


def admit(keys: Sequence[Path], connection: str, env: Mapping[str, str] | None = None) -> Iterator[tuple[Path, str]]:
    """Register public keys. Yield each with its node id, which is empty if the key was registered before.

    Raises:
        DeployError: the SuperLink does not answer, or did not accept a key; the message quotes Flower.
    """
    output = _run([sys.executable, "-c", REGISTER, connection, *map(str, keys)], connection, env).split(MARK)[1:]
    for path, words in zip_longest(keys, output, fillvalue=""):
        found = re.search(r'"node-id": "?(\d+)', words)
        if not found and "already in use" not in words:
            raise DeployError(f"{path} was not registered: {_reason(words)}")
        yield Path(path), found[1] if found else ""


def listed(connection: str) -> list[dict[str, str]]:
    """Return the registered SuperNodes of a SuperLink: 'node-id', 'status' and times.

    Raises:
        DeployError: the SuperLink does not answer; the message quotes Flower.
    """
    output = _run([script("flwr"), "supernode", "ls", connection, "--format", "json"], connection)
    try:
        nodes: list[dict[str, str]] = json.loads(output)["nodes"]
    except (ValueError, LookupError, TypeError):
        raise DeployError(f"the SuperLink '{connection}' does not list its SuperNodes: {_reason(output)}") from None
    return nodes


def _run(command: Sequence[str], connection: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command that needs the SuperLink of a connection, and return its output and errors.

    Raises:
        DeployError: there is no such connection, or no SuperLink answers.
    """
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    environ = {**os.environ, **quiet, **(env or {})}
    table = connections(flower_home(environ)).get(connection, {})
    address, authority = str(table.get("address", "")), table.get("root-certificates")
    if not address:
        raise DeployError(f"no connection '{connection}' on this machine: add it with `deploy connect`")
    if why := healthy(address, Path(authority) if authority else None):
        raise DeployError(
            f"the SuperLink '{connection}' does not answer at {address} ({why}): start it on the server with "
            "`deploy superlink`"
        )
    done = subprocess.run(
        command,
        env=direct(environ, host_of(address)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def _reason(output: str) -> str:
    """Return why Flower failed, from what it printed: JSON, or text."""
    with suppress(ValueError, LookupError, TypeError):
        output = str(json.loads(output)["error-message"])
    return " ".join(output.split()) or "no answer"


def write_whole(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text)
