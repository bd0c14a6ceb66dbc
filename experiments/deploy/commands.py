"""`python -m experiments deploy`: set up a SuperLink and SuperNodes on your own machines."""

import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table

from experiments.deploy.flower import (
    ADMITTED,
    REFUSED,
    admit,
    flower_home,
    gate_command,
    listed,
    superlink_command,
    supernode_command,
    write_connection,
    write_node,
    write_whole,
)
from experiments.deploy.identity import DeployError, admit_key, certificates, node_key
from experiments.deploy.link import time_link
from experiments.deploy.service import (
    Given,
    Service,
    environment,
    for_devices_only,
    healthy,
    limit_memory,
    script,
    services,
)
from experiments.deploy.warm import warmed
from experiments.hermetic import free_port
from experiments.proxies import host_of, proxied
from fl.devices.registered import VARIABLE, Registered, dumps, read
from partitions.root import absolute

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="""Run on real devices: a SuperLink with TLS, and a SuperNode with a key on each of them.

    server: [bold]deploy certificates HOST; deploy superlink; deploy connect[/bold]

    device: [bold]deploy key pi0[/bold], then copy pi0.pub to the server, and the server's ca.crt to the device

    server: [bold]deploy register pi0.pub --device 0[/bold]

    device: [bold]deploy supernode pi0 --superlink HOST:8000 --device 0[/bold]

    server: [bold]deploy status; flwr run . lab --stream -c 'devices.placement="own" devices.count=1 cohort=1'[/bold]

    Each command may be repeated and keeps what exists. docs/deploy.md describes a deployment on two machines.""",
)
console = Console()
Folder = Annotated[
    Path,
    typer.Option(help="Folder of this machine's certificates, keys, logs and node-configs.", envvar="DRIFTFED_DEPLOY"),
]
HOME = Path("~/.driftfed")
Connection = Annotated[str, typer.Option(help="Name of the connection, as in `flwr run . lab`.")]
LOCAL = ("localhost", "127.0.0.1")  # where the SuperLink's SuperExec reaches it
CONTROL_PORT = 8001


@app.command("certificates")
def certificates_(
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses under which devices reach the SuperLink.")],
    folder: Folder = HOME,
) -> None:
    """Make a certificate authority and the SuperLink's certificate. Devices need only FOLDER/ca.crt.

    Example: [bold]python -m experiments deploy certificates lab.local 192.168.1.5[/bold]
    """
    folder = _resolved(folder)
    made = certificates(folder, list(dict.fromkeys([*hosts, *LOCAL])))
    _say(f"{folder / 'server.pem'}: {'made' if made else 'kept, it is still valid'}")
    _say(f"copy {folder / 'ca.crt'} to every device; keep ca.key and server.key here")


@app.command()
def key(
    names: Annotated[list[str], typer.Argument(help="Names of SuperNodes, e.g. pi0.")], folder: Folder = HOME
) -> None:
    """Make the key pair of a SuperNode, on the device that will use it. The private key stays on the device.

    Example: [bold]python -m experiments deploy key pi0[/bold]
    """
    folder = _resolved(folder)
    for name in names:
        made = node_key(folder, name)
        _say(f"{folder / 'keys' / name}.pub: {'made; register it at the SuperLink' if made else 'kept'}")


@app.command()
def superlink(
    host: Annotated[str, typer.Option(help="Listen for devices on this address.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Listen for devices on this port.")] = 8000,
    control_port: Annotated[
        int, typer.Option(help="Port of `flwr run` and `deploy register`, for this machine alone.")
    ] = CONTROL_PORT,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Do not return, as systemd and Docker need it.")
    ] = False,
    folder: Folder = HOME,
) -> None:
    """Start the SuperLink, with TLS, for registered SuperNodes only. Its log is FOLDER/superlink/log.

    Devices reach it on all addresses of this machine. Who controls it, must be on this machine: Flower's control port
    asks for no key, and whoever reaches it runs code on the server and on every device.

    Example: [bold]python -m experiments deploy superlink --port 8000[/bold]
    """
    folder = _resolved(folder)
    for name in ("ca.crt", "server.pem", "server.key"):
        if not (folder / name).is_file():
            raise DeployError(f"{folder / name} is missing: run `python -m experiments deploy certificates HOST` first")
    service, gate, control = Service(folder / "superlink"), Service(folder / "gate"), f"127.0.0.1:{control_port}"
    given: dict[str, Given] = {"host": host, "port": port, "control-port": control_port}
    if service.pid() and (changed := _changes(service, given)):
        raise DeployError(
            f"the SuperLink runs with {', '.join(f'--{option} {value}' for option, value in changed.items())}: "
            "`deploy stop superlink gate` stops it, and the runs on it; then give this command again"
        )
    command, door = superlink_command(folder, "127.0.0.1", control_port), gate_command(folder, host, port, control)
    environ = environment(service.folder) | {VARIABLE: str(_list(folder))}
    if foreground:
        gate.start(door, ready=lambda log: True)
        _become(service, command, environ)
    _start(service, command, environ, control, folder, given)
    _start(gate, door, environment(gate.folder), f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}", folder)
    _say(f"devices reach it on {host}:{port}; `flwr run` and `deploy register` on {control}, from this machine alone")


@app.command()
def connect(
    address: Annotated[
        str, typer.Argument(help="HOST:PORT of the control port; from another machine, of a tunnel to it.")
    ] = f"127.0.0.1:{CONTROL_PORT}",
    name: Connection = "lab",
    folder: Folder = HOME,
) -> None:
    """Add the connection that `flwr run . NAME` uses to Flower's config.toml; other entries do not change.

    Example: [bold]python -m experiments deploy connect[/bold]
    """
    folder = _resolved(folder)
    if why := healthy(address, folder / "ca.crt"):
        raise DeployError(f"no SuperLink answers at {address}: {why}")
    if for_devices_only(address, folder / "ca.crt"):
        raise DeployError(
            f"{address} is the port for devices: on the server, leave the address out; elsewhere, make a tunnel, e.g. "
            f"`ssh -L {CONTROL_PORT}:127.0.0.1:{CONTROL_PORT} SERVER`, and give 127.0.0.1:{CONTROL_PORT}"
        )
    path = write_connection(flower_home(), name, address, folder / "ca.crt")
    _say(f"{path}: connection '{name}' is {address}")
    if names := proxied(os.environ, host_of(address)):
        _say(
            f"{', '.join(names)} would get what `flwr run` sends to it: `python -m experiments doctor` says what to do"
        )


@app.command()
def register(
    keys: Annotated[
        list[Path], typer.Argument(help="Public keys NAME.pub; of files in FOLDER/keys, the name is enough.")
    ],
    device: Annotated[
        int, typer.Option(help="Bind this one key to a device number; -1: it may claim any free number.", min=-1)
    ] = -1,
    serving: Annotated[
        bool, typer.Option("--serving", help="Only for `spa cloud` and `vq cloud`, which need no SuperLink.")
    ] = False,
    connection: Connection = "lab",
    folder: Folder = HOME,
) -> None:
    """Register SuperNodes at the SuperLink by their public keys. It refuses all others.

    With --device, a run accepts no other SuperNode as this device. A key that is registered already can be bound too.

    A registered key may also use `spa cloud` and `vq cloud` of this server, until FOLDER/devices/NAME.pub is removed.

    Example: [bold]python -m experiments deploy register pi0.pub --device 0[/bold]
    """
    folder = _resolved(folder)
    paths = [public if public.is_file() else folder / "keys" / f"{public.stem}.pub" for public in keys]
    for public, path in zip(keys, paths, strict=True):
        if not path.is_file():
            raise DeployError(f"{public} is no public key: make NAME.pub with `deploy key NAME` on the device")
    if serving and device >= 0:
        raise DeployError("--device binds a key for runs of the SuperLink: leave out --device or --serving")
    if serving:
        for path in paths:
            new = admit_key(folder, path)
            _say(f"{path.stem}: {'may use what this server serves' if new else 'was registered already'}")
        return
    if device >= 0:
        owner = next((about.name for about in _registered(folder).values() if about.device == device), paths[0].stem)
        if len(paths) > 1 or owner != paths[0].stem:
            why = "several keys were given" if len(paths) > 1 else f"it is {owner}'s"
            raise DeployError(f"device {device} cannot be bound, {why}: give one key, and a number that no other has")
    for path, node in admit(paths, connection):
        admit_key(folder, path)
        known = _registered(folder)
        ids = [int(node)] if node else [id_ for id_, about in known.items() if about.name == path.stem]
        if device >= 0 and not ids:
            raise DeployError(f"{path.stem} cannot be bound to a number: it was registered with another folder")
        if node or device >= 0:
            known[ids[-1]] = Registered(path.stem, device if device >= 0 else None)
            write_whole(_list(folder), dumps(known))
        said = f"registered, node {node}" if node else "was registered already"
        _say(f"{path.stem}: {said}{f', bound to device {device}' if device >= 0 else ''}")


@app.command()
def supernode(
    name: Annotated[str, typer.Argument(help="Name of the SuperNode; its key is FOLDER/keys/NAME.")],
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink.")],
    device: Annotated[int, typer.Option(help="Number of the device in runs, from 0, different on each device.", min=0)],
    device_class: Annotated[str, typer.Option("--class", help="Kind of machine, for devices.csv.")] = "",
    data: Annotated[
        str, typer.Option(help="Folder of local data (docs/deploy.md); empty: a part of the run's data set.")
    ] = "",
    link_mbit_s: Annotated[float, typer.Option(help="Mbit/s of the link; 0: measure it now with 1 MB.", min=0)] = 0.0,
    mac_per_s: Annotated[
        float, typer.Option(help="Multiply-accumulates per second in training; 0: measure.", min=0)
    ] = 0.0,
    limit_link: Annotated[
        float, typer.Option(help="Limit of transfers, as a share of the large model; 0: none.", min=0)
    ] = 0.0,
    limit_compute: Annotated[
        float, typer.Option(help="Limit of compute, as a share of the large model; 0: none.", min=0)
    ] = 0.0,
    limit_memory_: Annotated[
        float, typer.Option("--limit-memory", help="Limit of memory, as a share of the large model; 0: none.", min=0)
    ] = 0.0,
    memory_mb: Annotated[int, typer.Option(help="Memory limit of each of its processes in MB; 0: none.", min=0)] = 0,
    port: Annotated[int, typer.Option(help="Local port of its processes; 0: a free one.", min=0)] = 0,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Do not return, as systemd and Docker need it.")
    ] = False,
    folder: Folder = HOME,
) -> None:
    """Start a SuperNode, so that this machine is a device. Log and node-config are in FOLDER/supernodes/NAME.

    Example: [bold]python -m experiments deploy supernode pi0 --superlink lab.local:8000 --device 0[/bold]
    """
    folder = _resolved(folder)
    if not (folder / "ca.crt").is_file():
        raise DeployError(f"{folder / 'ca.crt'} is missing: copy it from the server")
    if not (folder / "keys" / name).is_file():
        raise DeployError(f"'{name}' has no key: run `python -m experiments deploy key {name}`, and register NAME.pub")
    if data and not any(any(absolute(data).glob(name)) for name in ("classes.txt", f"device-{device}.*")):
        raise DeployError(
            f"{data} is not a folder of local data: it has no classes.txt and no device-{device}.jsonl, .csv or "
            ".parquet, see docs/deploy.md"
        )
    service = Service(folder / "supernodes" / name)
    data = str(absolute(data)) if data else ""
    given: dict[str, Given] = {
        "superlink": superlink, "device": device, "class": device_class, "data": data, "link-mbit-s": link_mbit_s,
        "mac-per-s": mac_per_s, "limit-link": limit_link, "limit-compute": limit_compute,
        "limit-memory": limit_memory_, "memory-mb": memory_mb, "port": port,
    }  # fmt: skip
    changed = _changes(service, given)
    if service.pid() and not changed:
        _say(f"SuperNode {name}, process {service.pid()}: runs already; stop it with `deploy stop {name}`")
        return
    if why := healthy(superlink, folder / "ca.crt"):
        raise DeployError(f"no SuperLink answers at {superlink}: {why}")
    node: dict[str, Given] = {
        "partition-id": device,
        "device-class": device_class,
        "data": data,
        "link-mbit-s": link_mbit_s or time_link(superlink, folder / "ca.crt"),
        "mac-per-s": mac_per_s,
        "limit-link": limit_link,
        "limit-compute": limit_compute,
        "limit-memory": limit_memory_,
    }
    if service.pid():
        _say(f"SuperNode {name}: restarts with {', '.join(f'--{option}' for option in changed)} changed")
        service.stop()
    write_node(service, node)
    port = port or free_port()
    command, limit = warmed(supernode_command(folder, service, superlink, port)), memory_mb * 1_000_000
    environ = environment(service.folder, host_of(superlink))
    if foreground:
        _say(f"SuperNode {name}: device {device}, local port {port}")
        _become(service, command, environ, limit)
    try:
        service.start(command, lambda log: ADMITTED in log, limit, environ, given)
    except DeployError as error:
        if REFUSED in str(error):
            raise DeployError(
                f"the SuperLink refuses {name}: run `deploy register {name}.pub` on the server; if it is registered "
                "and was killed just now, the SuperLink still counts it as running: try again in a minute"
            ) from error
        raise
    _say(
        f"SuperNode {name}, process {service.pid()}: started as device {device}, {node['link-mbit-s']:.1f} Mbit/s, "
        f"local port {port}"
    )


@app.command()
def status(connection: Connection = "lab", folder: Folder = HOME) -> None:
    """Show what runs on this machine, and which SuperNodes are registered and online at the SuperLink.

    Example: [bold]python -m experiments deploy status[/bold]
    """
    folder, table = _resolved(folder), Table("service", "process", "log", box=None)
    for service in services(folder):
        table.add_row(service.name, str(service.pid() or "stopped"), str(service.folder / "log"))
    console.print(table if table.row_count else f"nothing was started from {folder} yet")
    nodes, known = Table("SuperNode", "node", "device", "status", box=None), _registered(folder)
    try:
        for node in listed(connection):
            about = known.get(int(node["node-id"]), Registered("-"))
            number = "any" if about.device is None else str(about.device)
            nodes.add_row(about.name, node["node-id"], number, node["status"])
    except DeployError as error:  # a SuperLink that is stopped, or none on a device
        _say(str(error))
        return
    console.print(
        nodes if nodes.row_count else f"'{connection}' has no SuperNode: add one with `deploy register NAME.pub`"
    )


@app.command()
def stop(
    names: Annotated[
        list[str] | None, typer.Argument(help="SuperNodes, superlink or gate; by default all of them.")
    ] = None,
    folder: Folder = HOME,
) -> None:
    """Stop processes that `superlink` and `supernode` started on this machine.

    Example: [bold]python -m experiments deploy stop pi0[/bold]
    """
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
    """Print a systemd unit that starts a SuperNode or the SuperLink at boot. Write -- before the command.

    Example: [bold]python -m experiments deploy unit -- supernode pi0 --superlink lab.local:8000 --device 0[/bold]
    """
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


def _changes(service: Service, given: Mapping[str, Given]) -> dict[str, Given]:
    """Return the options with which a service was started and that are others now. Args: given: those of now."""
    return {option: value for option, value in service.given().items() if given.get(option) != value}


def _start(
    service: Service, command: list[str], environ: Mapping[str, str], address: str, folder: Path,
    given: Mapping[str, Given] | None = None,
) -> None:  # fmt: skip
    """Start a service and wait until it answers at ``address``."""
    started = service.start(command, lambda log: not healthy(address, folder / "ca.crt"), environ=environ, given=given)
    _say(f"{service.name}, process {service.pid()}: {'started' if started else 'runs already'}")


def _list(folder: Path) -> Path:
    return folder / "registered.json"


def _registered(folder: Path) -> dict[int, Registered]:
    """Return the SuperNodes that were registered here by node id."""
    try:
        return read(_list(folder))
    except ValueError as error:
        raise DeployError(str(error)) from None


def _quoted(word: str) -> str:
    """Quote a word for systemd. In a command, a dollar sign must also be doubled."""
    word = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"' if set(word) & set(" \t'\"\\;") else word


def _become(service: Service, command: list[str], environ: Mapping[str, str], limit_bytes: int = 0) -> None:
    """Replace this process by the command, for systemd or Docker."""
    for part in ("home", "cache"):
        (service.folder / part).mkdir(parents=True, exist_ok=True)
    if limit_bytes:
        limit_memory(limit_bytes)
    os.chdir(service.folder)
    os.execve(script(command[0]), command, environ)


def _resolved(folder: Path) -> Path:
    return absolute(folder)


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Run `python -m experiments deploy` without loading the other commands, which a device does not need."""
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
