"""A whole deployment on this machine: TLS, a registered key and a SuperNode for every device, each with its limits.

A SuperNode stands for the hardware that the simulation would draw for its device: its node-config grants it the same
shares of the large model at most, its processes may hold the class's memory and run on one core, and give way to the
SuperLink, which many devices on few cores would starve. So a run's rows are those of the simulation, but for the wall
clock. What is not enforced is the class's speed: `virtual_s` accounts for it.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from experiments.deploy.commands import (
    ADMITTED,
    admit,
    superlink_command,
    supernode_command,
    write_connection,
    write_node,
)
from experiments.deploy.identity import DeployError, certificates, node_key
from experiments.deploy.service import BOOT_S, Service, healthy, limit_memory
from experiments.hermetic import Group, free_port, private_folder, submit
from fl.config.settings import Settings
from fl.devices.hardware import Table, shares
from fl.devices.machine import free_memory

AT_ONCE = 4  # SuperNodes that start together: more would wait for each other and give up
PATIENCE_S = 600.0  # with these
PER_CORE = 2  # messages under way at a time: half of the time of each goes by in polls
NODE_BYTES = 0.2e9  # measured: a SuperNode and its SuperExec
CLIENT_BYTES = 0.6e9  # measured: the ClientApp that a message starts

RunConfig = Mapping[str, str | int | float | bool]


def loopback_run(
    project: Path, run_config: RunConfig, workers: int, on_line: Callable[[str], None] | None = None
) -> None:
    """Run the app in ``project`` on a deployment of its own, one seed after the other.

    Args:
        run_config: of the simulation; ``workers`` belongs to the simulation too, here every device is a process.

    Raises:
        DeployError: the deployment did not get up.
        FlowerRunFailed: the run did not complete.
    """
    say = on_line or (lambda line: None)
    settings = Settings.parse(run_config)
    for seed in settings.seed_list:
        with deployment(settings, seed, say) as site:
            own: dict[str, Any] = {"seeds": str(seed), "placement": "own", "at-once": at_once()}
            own |= {"state-root": str(site.folder / "devices")}
            submit(site.group, project, {**run_config, **own}, on_line=on_line)


def at_once() -> int:
    """Messages under way at a time."""
    return PER_CORE * len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Site:
    """A SuperLink that runs, and how SuperNodes are started for it."""

    group: Group
    folder: Path
    address: str

    def supernode(self, name: str, node: Mapping[str, Any], memory_gb: float, core: int) -> IO[bytes]:
        """Start a SuperNode with the key of ``name``; its log, to be read and closed."""
        service = Service(self.folder / "supernodes" / name)
        write_node(service, dict(node))
        (service.folder / "home").mkdir()
        log = (service.folder / "log").open("a+b")  # what it writes goes to the end, wherever we read
        command = supernode_command(self.folder, service, self.address, free_port())
        self.group.start(
            *command,
            output=log,
            env={"FLWR_HOME": str(service.folder / "home"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "2"},
            before=partial(_confine, memory_gb, core),
        )
        return log


@contextmanager
def deployment(
    settings: Settings, seed: int, say: Callable[[str], None], by: Callable[[str], str] = str
) -> Iterator[Site]:
    """A SuperLink and a SuperNode for each device of the settings; all of it ends with the block, or with us.

    Args:
        by: where SuperNodes find the SuperLink of an address, if something lies between.

    Raises:
        DeployError: they would not fit into memory, or one did not get up, with the end of its log.
    """
    needed = settings.devices * NODE_BYTES + min(at_once(), settings.devices) * CLIENT_BYTES
    free = free_memory()
    if needed > free:
        raise DeployError(
            f"{settings.devices} SuperNodes take {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: "
            "stop what else runs, or deploy fewer (--set devices=n)"
        )
    with private_folder() as folder, Group(folder) as group:
        site = _superlink(folder, group)
        site = replace(site, address=by(site.address))
        names = [f"device-{device:02d}" for device in range(settings.devices)]
        for name in names:
            node_key(folder, name)
        say(f"SuperLink at {site.address}; registering {len(names)} keys")
        env = {"FLWR_HOME": str(folder / "home")}
        list(admit([folder / "keys" / f"{name}.pub" for name in names], "loopback", env))
        cores, table = sorted(os.sched_getaffinity(0)), Table.of(settings.hardware)
        for first in range(0, len(names), AT_ONCE):
            say(f"starting SuperNodes {first + 1} to {min(first + AT_ONCE, len(names))} of {len(names)}")
            with ExitStack() as logs:
                started = []
                for device in range(first, min(first + AT_ONCE, len(names))):
                    memory_gb, core = table.draw(seed, device).ram_gb, cores[device % len(cores)]
                    node = node_config(settings, seed, device)
                    started.append(logs.enter_context(site.supernode(names[device], node, memory_gb, core)))
                for log in started:
                    await_words(log, ADMITTED, PATIENCE_S)
        yield site


def node_config(settings: Settings, seed: int, device: int) -> dict[str, str | int | float]:
    """What the simulation would draw for a device, as the node-config of a machine that is given no more than that."""
    table = Table.of(settings.hardware)
    drawn = table.draw(seed, device)
    most = shares(table, drawn, seed, device, 0, settings.limit_low, settings.limit_high, load=0.0)
    return {
        "partition-id": device,
        "device-class": drawn.name,
        "ram-gb": drawn.ram_gb,
        "mac-per-s": drawn.mac_per_s,
        "link-mbit-s": drawn.link_mbit_s,
        "limit-link": most.link,
        "limit-compute": most.compute,
        "limit-memory": most.memory,
    }


def _superlink(folder: Path, group: Group) -> Site:
    certificates(folder, ["127.0.0.1", "localhost"])
    (folder / "superlink").mkdir()
    for _ in range(3):  # another process may take the port between our look and the start
        port = free_port()
        address, log = f"127.0.0.1:{port}", (folder / "superlink" / "log").open("a+b")
        with log:
            # apart from its SuperExec, which it would put into another session, out of the group's reach
            command = [*superlink_command(folder, "127.0.0.1", port), "--isolation", "process"]
            superlink = group.start(*command, output=log)
            end = time.monotonic() + BOOT_S
            while superlink.poll() is None and time.monotonic() < end:
                if not healthy(address, folder / "ca.crt"):
                    write_connection(folder / "home", "loopback", address, folder / "ca.crt")
                    secure = ["--root-certificates", str(folder / "ca.crt"), "--runtime-api-address", address]
                    group.start("flower-superexec", *secure, output=log)
                    return Site(group, folder, address)
                time.sleep(0.2)
            words = _said(log)
    raise DeployError(f"the SuperLink did not start:\n{words[-2000:]}")


def await_words(log: IO[bytes], words: str, patience_s: float) -> None:
    """Wait until a process has said something.

    Raises:
        DeployError: it did not, with the end of what it said.
    """
    end = time.monotonic() + patience_s
    while words not in (said := _said(log)):
        if time.monotonic() > end or "Exit Code:" in said:
            raise DeployError(f"a SuperNode did not get to work:\n{said[-2000:]}")
        time.sleep(0.2)


def _said(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


def _confine(memory_gb: float, core: int) -> None:
    """Let this process, and all that it starts, hold so much memory each and run on one core, after the SuperLink."""
    os.nice(5)
    limit_memory(int(memory_gb * 1e9))
    os.sched_setaffinity(0, {core})
