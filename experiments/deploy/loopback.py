"""A whole deployment on this machine: TLS, and for every device a registered key and a SuperNode with its own limits.

A SuperNode has the limits of the hardware that the simulation draws for its device. Its node-config limits it to the
same shares of the large model. Its processes are limited to the memory of the device class, run on one core, and have
a lower priority than the SuperLink, which many devices on few cores would starve. So a run gives the rows of the
simulation, except for the wall clock. The speed of the class is not enforced: `virtual_s` accounts for it.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from experiments.deploy.flower import (
    ADMITTED,
    admit,
    superlink_command,
    supernode_command,
    write_connection,
    write_node,
)
from experiments.deploy.identity import DeployError, certificates, node_key
from experiments.deploy.service import BOOT_S, Service, healthy, limit_memory
from experiments.deploy.warm import POSSIBLE, WARM, environment
from experiments.hermetic import Group, free_port, private_folder, submit
from fl.config import Settings
from fl.devices.hardware import Table, shares
from fl.devices.load import cores, free_memory

AT_ONCE = 4  # SuperNodes that start together: more would wait for each other until they time out
PROJECT = Path(__file__).resolve().parents[2]
START_S = 600.0  # longest start of these SuperNodes
PER_CORE = 2  # open messages per core: each message spends half of its time waiting for polls
POLL_S = 0.1  # each SuperNode polls its own queue after so many seconds for each SuperNode on the machine
NODE_BYTES = 0.2e9  # measured: a SuperNode and its SuperExec
CLIENT_BYTES = 0.6e9  # measured: the ClientApp that a message starts

RunConfig = Mapping[str, str | int | float | bool]


def loopback_run(
    project: Path, run_config: RunConfig, workers: int, on_line: Callable[[str], None] | None = None
) -> None:
    """Run the app in ``project`` on its own deployment, one seed after the other.

    Args:
        run_config: that of the simulation.
        workers: not used, because every device has its own process.

    Raises:
        DeployError: the deployment did not start.
        FlowerRunFailed: the run did not complete.
    """
    say = on_line or (lambda line: None)
    settings = Settings.parse(run_config)
    for seed in settings.seed_list:
        with deployment(settings, seed, say) as site:
            own: dict[str, Any] = {"seeds": str(seed), "devices.placement": "own", "server.at-once": at_once()}
            own |= {"devices.state-root": str(site.folder / "devices")}
            submit(site.group, project, {**run_config, **own}, on_line=on_line, add_keys=True)


def at_once() -> int:
    """Return how many messages may be open at a time."""
    return PER_CORE * len(cores())


@dataclass(frozen=True)
class Site:
    """A running SuperLink, for which SuperNodes can be started with the variables ``env``."""

    group: Group
    folder: Path
    address: str
    env: Mapping[str, str] = field(default_factory=dict)

    def supernode(self, name: str, node: Mapping[str, Any], memory_gb: float, core: int) -> IO[bytes]:
        """Start a SuperNode with the key of ``name``. Return its log, which the caller must close."""
        service = Service(self.folder / "supernodes" / name)
        write_node(service, dict(node))
        (service.folder / "home").mkdir()
        log = (service.folder / "log").open("a+b")  # appends, wherever this process reads
        command = supernode_command(self.folder, service, self.address, free_port())
        self.group.start(
            *command,
            output=log,
            env={**self.env, "FLWR_HOME": str(service.folder / "home")},
            before=partial(_confine, memory_gb, core),
        )
        return log


@contextmanager
def deployment(
    settings: Settings, seed: int, say: Callable[[str], None], by: Callable[[str], str] = str
) -> Iterator[Site]:
    """Run a SuperLink and a SuperNode for each device of the settings. All of it ends with the block or this process.

    Args:
        by: turns the SuperLink's address into the one that SuperNodes connect to, e.g. that of a proxy.

    Raises:
        DeployError: they do not fit into memory, or one did not start; the message quotes the end of its log.
    """
    count = settings.devices.count
    needed = count * NODE_BYTES + min(at_once(), count) * CLIENT_BYTES
    free = free_memory()
    if needed > free:
        raise DeployError(
            f"{count} SuperNodes take {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: stop other "
            "programs, or deploy fewer devices (--set devices.count=n)"
        )
    with private_folder() as folder, Group(folder) as group:
        site = _superlink(folder, group)
        poll = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{min(2.0, max(0.2, POLL_S * count))}"}
        site = replace(site, address=by(site.address), env={**site.env, **poll})
        names = [f"device-{device:02d}" for device in range(count)]
        for name in names:
            node_key(folder, name)
        say(f"SuperLink at {site.address}; registering {len(names)} keys")
        env = {"FLWR_HOME": str(folder / "home")}
        list(admit([folder / "keys" / f"{name}.pub" for name in names], "loopback", env))
        usable, table = sorted(cores()), Table.of(settings.devices.hardware)
        for first in range(0, len(names), AT_ONCE):
            say(f"starting SuperNodes {first + 1} to {min(first + AT_ONCE, len(names))} of {len(names)}")
            with ExitStack() as logs:
                started = []
                for device in range(first, min(first + AT_ONCE, len(names))):
                    memory_gb, core = table.draw(seed, device).ram_gb, usable[device % len(usable)]
                    node = node_config(settings, seed, device)
                    started.append(logs.enter_context(site.supernode(names[device], node, memory_gb, core)))
                for log in started:
                    wait_for(log, ADMITTED, START_S)
        yield site


def node_config(settings: Settings, seed: int, device: int) -> dict[str, str | int | float]:
    """Return the node-config of a machine with the hardware and the limits that the simulation draws for a device."""
    section = settings.devices
    table = Table.of(section.hardware)
    drawn = table.draw(seed, device)
    most = shares(table, drawn, seed, device, 0, section.limit_low, section.limit_high, load=0.0)
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
    for _ in range(3):  # another process may take the free port first
        port = free_port()
        address, log = f"127.0.0.1:{port}", (folder / "superlink" / "log").open("a+b")
        with log:
            # without a SuperExec of its own, which it would start in another session, outside of the group
            command = [*superlink_command(folder, "127.0.0.1", port), "--isolation", "process"]
            superlink = group.start(*command, output=log)
            end = time.monotonic() + BOOT_S
            while superlink.poll() is None and time.monotonic() < end:
                if not healthy(address, folder / "ca.crt"):
                    write_connection(folder / "home", "loopback", address, folder / "ca.crt")
                    secure = ["--root-certificates", str(folder / "ca.crt"), "--runtime-api-address", address]
                    group.start("flower-superexec", *secure, output=log)
                    return Site(group, folder, address, _warm(folder, group))
                time.sleep(0.2)
            words = _text(log)
    raise DeployError(f"the SuperLink did not start:\n{words[-2000:]}")


def _warm(folder: Path, group: Group) -> dict[str, str]:
    """Start one warm process for all SuperNodes; return the variables by which they find it."""
    if not POSSIBLE:
        return {}
    (place := folder / "warm").mkdir()
    with (place / "log").open("ab") as log:
        group.start(*WARM, "--at", str(place), output=log, env={"PYTHONPATH": str(PROJECT)})
    return environment(place)


def wait_for(log: IO[bytes], words: str, timeout_s: float) -> None:
    """Wait until a process has logged ``words``.

    Raises:
        DeployError: it ended or took too long; the message quotes the end of its log.
    """
    end = time.monotonic() + timeout_s
    while words not in (text := _text(log)):
        if time.monotonic() > end or "Exit Code:" in text:
            raise DeployError(f"a SuperNode did not start:\n{text[-2000:]}")
        time.sleep(0.2)


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


def _confine(memory_gb: float, core: int) -> None:
    """Limit the memory of this process and of each process that it starts, and run them on one core at low priority."""
    os.nice(5)
    limit_memory(int(memory_gb * 1e9))
    os.sched_setaffinity(0, {core})
