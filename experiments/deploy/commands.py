"""``python -m experiments deploy``: from nothing to a SuperLink and SuperNodes on machines of one's own."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import click
import tomli_w
import typer
from rich.console import Console
from rich.table import Table

from experiments.deploy.identity import DeployError, certificates, node_key
from experiments.deploy.link import time_link
from experiments.deploy.service import Service, environment, healthy, limit_memory, script, services

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="""Run on real devices: a SuperLink with TLS, and a SuperNode with a key on each of them.

    server: [bold]deploy certificates HOST; deploy superlink; deploy connect HOST:8000[/bold]

    device: [bold]deploy key pi0[/bold], then bring pi0.pub to the server, and the server's ca.crt to the device

    server: [bold]deploy register pi0.pub[/bold]

    device: [bold]deploy supernode pi0 --superlink HOST:8000 --device 0[/bold]

    server: [bold]deploy status; flwr run . lab --stream -c 'placement="own" devices=1 cohort=1'[/bold]

    All of it may be repeated: what is there is kept. docs/deploy.md walks through it for two machines.""",
)
console = Console()
Folder = Annotated[
    Path,
    typer.Option(help="Where certificates, keys, logs and node-configs of this machine lie.", envvar="DRIFTFED_DEPLOY"),
]
HOME = Path("~/.driftfed")
Connection = Annotated[str, typer.Option(help="Name of the connection, as in `flwr run . lab`.")]
REFUSED = "[code: 2004]"  # what it logs if the SuperLink does not know its key, or takes it for running
MARK = "=== "  # before what is said about each key
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
ADMITTED = "SuperNode ID:"  # what a SuperNode logs once the SuperLink has taken it
LOCAL = ("localhost", "127.0.0.1")  # the SuperLink's own SuperExec reaches it there


@app.command("certificates")
def certificates_(
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses under which devices reach the SuperLink.")],
    folder: Folder = HOME,
) -> None:
    """Make a certificate authority and the SuperLink's certificate. Devices need FOLDER/ca.crt and nothing else."""
    folder = _resolved(folder)
    made = certificates(folder, list(dict.fromkeys([*hosts, *LOCAL])))
    _say(f"{folder / 'server.pem'}: {'made' if made else 'kept, it still holds'}")
    _say(f"copy {folder / 'ca.crt'} to every device; keep ca.key and server.key here")


@app.command()
def key(
    names: Annotated[list[str], typer.Argument(help="Names of SuperNodes, e.g. pi0.")], folder: Folder = HOME
) -> None:
    """Make the key pair of a SuperNode, on the device that will use it: the private key never travels."""
    folder = _resolved(folder)
    for name in names:
        made = node_key(folder, name)
        _say(f"{folder / 'keys' / name}.pub: {'made; register it at the SuperLink' if made else 'kept'}")


@app.command()
def superlink(
    host: Annotated[str, typer.Option(help="Listen on this address; 127.0.0.1: this machine alone.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Listen on this port.")] = 8000,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, as systemd and Docker want it.")] = False,
    folder: Folder = HOME,
) -> None:
    """Start the SuperLink: TLS, only registered SuperNodes, its state in a file. It logs to FOLDER/superlink/log."""
    folder = _resolved(folder)
    for name in ("ca.crt", "server.pem", "server.key"):
        if not (folder / name).is_file():
            raise DeployError(f"{folder / name} is missing: run `python -m experiments deploy certificates HOST` first")
    service = Service(folder / "superlink")
    command = superlink_command(folder, host, port)
    if foreground:
        _become(service, command)
    started = service.start(command, ready=lambda log: not healthy(f"127.0.0.1:{port}", folder / "ca.crt"))
    _say(f"SuperLink, process {service.pid()}: {'started' if started else 'runs already'} on {host}:{port}")


def superlink_command(folder: Path, host: str, port: int) -> list[str]:
    """A SuperLink with TLS and node authentication, whose certificates lie in ``folder``."""
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


@app.command()
def connect(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the SuperLink.")],
    name: Connection = "lab",
    folder: Folder = HOME,
) -> None:
    """Write the connection that `flwr run . NAME` uses into Flower's config.toml; other entries stay as they are."""
    folder = _resolved(folder)
    if why := healthy(address, folder / "ca.crt"):
        raise DeployError(f"no SuperLink answers at {address}: {why}")
    path = write_connection(_flower_home(), name, address, folder / "ca.crt")
    _say(f"{path}: connection '{name}' is {address}")


def write_connection(home: Path, name: str, address: str, authority: Path) -> Path:
    """Add or change ``[superlink.NAME]`` of ``home/config.toml``.

    Raises:
        DeployError: the file is not TOML.
    """
    path = home / "config.toml"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DeployError(f"{path} cannot be read ({error}): mend it or remove it") from None
    table = config.setdefault("superlink", {})
    table.setdefault("default", name)
    table[name] = {"address": address, "root-certificates": str(authority)}
    _write(path, tomli_w.dumps(config))
    return path


@app.command()
def register(
    keys: Annotated[
        list[Path], typer.Argument(help="Public keys, NAME.pub; files of FOLDER/keys may go by their name.")
    ],
    connection: Connection = "lab",
    folder: Folder = HOME,
) -> None:
    """Admit SuperNodes to the SuperLink by their public keys. It refuses all others."""
    folder = _resolved(folder)
    paths = [public if public.is_file() else folder / "keys" / f"{public.stem}.pub" for public in keys]
    for public, path in zip(keys, paths, strict=True):
        if not path.is_file():
            raise DeployError(f"{public} is no public key: `deploy key NAME` on the device makes NAME.pub")
    for path, node in admit(paths, connection):
        if node:
            _remember(folder, node, path.stem)
        _say(f"{path.stem}: {f'registered, node {node}' if node else 'was registered already'}")


def admit(keys: Sequence[Path], connection: str, env: Mapping[str, str] | None = None) -> Iterator[tuple[Path, str]]:
    """Register public keys; yields each with its node id, or with nothing if the SuperLink knew it.

    Raises:
        DeployError: the SuperLink did not take one, in Flower's words.
    """
    said = _run([sys.executable, "-c", REGISTER, connection, *map(str, keys)], env).split(MARK)[1:]
    for path, words in zip_longest(keys, said, fillvalue=""):
        found = re.search(r'"node-id": "?(\d+)', words)
        if not found and "already in use" not in words:
            raise DeployError(f"{path} was not registered: {words.strip() or 'no answer'}")
        yield Path(path), found[1] if found else ""


@app.command()
def supernode(
    name: Annotated[str, typer.Argument(help="Of the SuperNode; its key is FOLDER/keys/NAME.")],
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink.")],
    device: Annotated[int, typer.Option(help="Its number in runs, from 0; every device has its own.", min=0)],
    device_class: Annotated[str, typer.Option("--class", help="What the machine is, for devices.csv.")] = "",
    data: Annotated[
        str, typer.Option(help="Folder of local data (docs/deploy.md); empty: drawn from the run's data set.")
    ] = "",
    link_mbit_s: Annotated[
        float, typer.Option(help="Mbit/s of the link; 0: time 1 MB to the SuperLink now.", min=0)
    ] = 0.0,
    mac_per_s: Annotated[float, typer.Option(help="Multiply-accumulates a second in training; 0: timed.", min=0)] = 0.0,
    limit_link: Annotated[
        float, typer.Option(help="Most it bears on the link, as a share of the large model; 0: no cap.", min=0)
    ] = 0.0,
    limit_compute: Annotated[float, typer.Option(help="The same of compute.", min=0)] = 0.0,
    limit_memory_: Annotated[float, typer.Option("--limit-memory", help="The same of memory.", min=0)] = 0.0,
    memory_mb: Annotated[int, typer.Option(help="Megabytes that each of its processes may hold; 0: all.", min=0)] = 0,
    port: Annotated[
        int, typer.Option(help="Local port of its own; another one for each SuperNode of a machine.")
    ] = 9094,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, as systemd and Docker want it.")] = False,
    folder: Folder = HOME,
) -> None:
    """Start a SuperNode: this machine is a device. Its log and its node-config lie in FOLDER/supernodes/NAME."""
    folder = _resolved(folder)
    if not (folder / "ca.crt").is_file():
        raise DeployError(f"{folder / 'ca.crt'} is missing: copy it from the server")
    if not (folder / "keys" / name).is_file():
        raise DeployError(f"'{name}' has no key: run `python -m experiments deploy key {name}`, and register NAME.pub")
    if data and not (Path(data).expanduser() / "classes.txt").is_file():
        raise DeployError(f"{data} is no folder of local data: it has no classes.txt, see docs/deploy.md")
    service = Service(folder / "supernodes" / name)
    if service.pid():
        _say(f"SuperNode {name}, process {service.pid()}: runs already; `deploy stop {name}` ends it")
        return
    if why := healthy(superlink, folder / "ca.crt"):
        raise DeployError(f"no SuperLink answers at {superlink}: {why}")
    node: dict[str, str | int | float] = {
        "partition-id": device,
        "device-class": device_class,
        "data": str(Path(data).expanduser().absolute()) if data else "",
        "link-mbit-s": link_mbit_s or time_link(superlink, folder / "ca.crt"),
        "mac-per-s": mac_per_s,
        "limit-link": limit_link,
        "limit-compute": limit_compute,
        "limit-memory": limit_memory_,
    }
    write_node(service, node)
    command = supernode_command(folder, service, superlink, port)
    if foreground:
        _become(service, command, memory_mb * 1_000_000)
    try:
        service.start(command, ready=lambda log: ADMITTED in log, limit_bytes=memory_mb * 1_000_000)
    except DeployError as error:
        if REFUSED in str(error):
            raise DeployError(
                f"the SuperLink refuses {name}: run `deploy register {name}.pub` on the server; if it is registered "
                "and was killed just now, the SuperLink takes it for running: try again in a minute"
            ) from error
        raise
    _say(f"SuperNode {name}, process {service.pid()}: started as device {device}, {node['link-mbit-s']:.1f} Mbit/s")


def write_node(service: Service, values: dict[str, str | int | float]) -> None:
    """The node-config of a SuperNode, without what was not given."""
    given = {k: v for k, v in values.items() if v or k == "partition-id"}
    _write(service.folder / "node.toml", tomli_w.dumps(given))


def supernode_command(folder: Path, service: Service, superlink: str, port: int) -> list[str]:
    """A SuperNode with its key and its node-config."""
    return [
        "flower-supernode",
        *("--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / "keys" / service.name)),
        *("--superlink", superlink, "--port", str(port)),
        *("--node-config", str(service.folder / "node.toml")),
    ]


@app.command()
def status(connection: Connection = "lab", folder: Folder = HOME) -> None:
    """Health: what runs on this machine, and which SuperNodes the SuperLink knows and hears."""
    folder, table = _resolved(folder), Table("service", "process", "log", box=None)
    for service in services(folder):
        table.add_row(service.name, str(service.pid() or "stopped"), str(service.folder / "log"))
    console.print(table if table.row_count else f"nothing was ever started from {folder}")
    if connection in _connections(_flower_home()):
        nodes, names = Table("SuperNode", "node", "status", box=None), _registered(folder)
        for node in listed(connection):
            nodes.add_row(names.get(node["node-id"], "-"), node["node-id"], node["status"])
        console.print(nodes if nodes.row_count else f"'{connection}' knows no SuperNode: `deploy register NAME.pub`")
    else:
        _say(f"no connection '{connection}' here: `deploy connect HOST:PORT` makes it")


def listed(connection: str) -> list[dict[str, str]]:
    """The SuperNodes that a SuperLink knows: 'node-id', 'status' and since when.

    Raises:
        DeployError: it does not answer, in Flower's words.
    """
    said = _flwr("supernode", "ls", connection, "--format", "json")
    try:
        nodes: list[dict[str, str]] = json.loads(said)["nodes"]
    except (ValueError, LookupError, TypeError):
        raise DeployError(f"the SuperLink '{connection}' does not say what it knows: {said.strip()}") from None
    return nodes


@app.command()
def stop(
    names: Annotated[list[str] | None, typer.Argument(help="SuperNodes, or superlink; by default all of them.")] = None,
    folder: Folder = HOME,
) -> None:
    """Stop what `superlink` and `supernode` started on this machine."""
    known = {service.name: service for service in services(_resolved(folder))}
    for name in names or reversed(known):  # SuperNodes before their SuperLink
        if name not in known:
            raise DeployError(f"'{name}' was never started here; known: {', '.join(known) or 'nothing'}")
        _say(f"{name}: {'stopped' if known[name].stop() else 'was not running'}")


@app.command()
def unit(
    command: Annotated[
        list[str], typer.Argument(help="The command after `deploy`, e.g. supernode pi0 --superlink ...")
    ],
    folder: Folder = HOME,
) -> None:
    """Print a systemd unit that runs a SuperNode or the SuperLink from boot on. Put -- before the command."""
    if command[0] not in ("supernode", "superlink"):
        raise DeployError(
            f"'{command[0]}' is no service: write `deploy unit -- supernode NAME --superlink HOST:PORT ...`"
        )
    text = files("experiments.deploy").joinpath("driftfed.service").read_text(encoding="utf-8")
    python = Path(os.path.abspath(os.path.join(os.path.dirname(script("python")), "python")))  # noqa: PTH100, PTH118, PTH120
    words = " ".join(_quoted(word).replace("$", "$$") for word in command)
    values = {
        "@WHAT@": " ".join(command[:2]),
        "@USER@": os.environ.get("USER", "driftfed"),
        "@PROJECT@": str(Path(__file__).resolve().parents[2]).replace("%", "%%"),
        "@FOLDER@": _quoted(f"DRIFTFED_DEPLOY={_resolved(folder)}"),
        "@COMMAND@": f"{_quoted(str(python))} -m experiments deploy {words} --foreground",
    }
    for mark, value in values.items():
        text = text.replace(mark, value)
    print(text, end="")


def _registered(folder: Path) -> dict[str, str]:
    """Names of the SuperNodes that were registered from here, by node id; Flower does not tell them."""
    path = folder / "registered.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _remember(folder: Path, node: str, name: str) -> None:
    _write(folder / "registered.json", json.dumps(_registered(folder) | {node: name}, indent=1))


def _write(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _quoted(word: str) -> str:
    """A word as systemd reads it; in a command a dollar sign is two."""
    word = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"' if set(word) & set(" \t'\"\\;") else word


def _become(service: Service, command: list[str], limit_bytes: int = 0) -> None:
    """Turn into the process that was asked for; whoever started us looks after it."""
    for part in ("home", "cache"):
        (service.folder / part).mkdir(parents=True, exist_ok=True)
    if limit_bytes:
        limit_memory(limit_bytes)
    os.chdir(service.folder)
    os.execve(script(command[0]), command, environment(service.folder))


def _flwr(*arguments: str) -> str:
    return _run([script("flwr"), *arguments])


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """All that a command of Flower's says."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        command,
        env={**os.environ, **quiet, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def _flower_home() -> Path:
    return Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr").expanduser()


def _connections(home: Path) -> dict[str, object]:
    try:
        return tomllib.loads((home / "config.toml").read_text(encoding="utf-8")).get("superlink", {})
    except (OSError, tomllib.TOMLDecodeError):
        return {}


def _resolved(folder: Path) -> Path:
    return folder.expanduser().absolute()


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """``python -m experiments deploy`` alone: a device need not load, on each command, what trains and draws."""
    errors = Console(stderr=True)
    try:
        code = app(args=sys.argv[2:], prog_name="python -m experiments deploy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DeployError as error:
        errors.print("error:", style="red", end=" ")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(code)
