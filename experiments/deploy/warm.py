"""A process that has loaded Flower and torch, and forks for each message that a SuperNode answers.

Flower starts the command `flwr-clientapp` for each message, and loads both anew. It looks the command up on PATH. There
a SuperNode that was started by this module finds `experiments.deploy.launcher`, which asks this process instead. A fork
has the launcher's arguments, environment, folder, streams and limits, and nothing of an earlier message. The code of an
app is never loaded before the fork, because it may change.

    python -m experiments.deploy.warm flower-supernode --superlink ...      # ends with the SuperNode
    python -m experiments.deploy.warm --at FOLDER                           # for all whose environment is `environment`
"""

import ctypes
import importlib
import json
import os
import random
import resource
import selectors
import shlex
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

from experiments.deploy import launcher

COMMAND = "flwr-clientapp"
LOADED = ("flwr.clientapp", "torch", "torch._dynamo", "numpy", "pydantic", "safetensors.torch")  # beside the command
WARM = ("python", "-m", "experiments.deploy.warm")
POSSIBLE = hasattr(os, "pidfd_open")  # on Linux
PR_SET_PDEATHSIG = 1
START_S = 5.0  # for a SuperNode to start before this process takes its share of the cores
ORDER_S = 5.0  # within which a launcher must say what it wants


@dataclass(frozen=True)
class Fork:
    """A process that answers a message: its id, a descriptor that can be read when it has ended, its launcher."""

    pid: int
    ended: int
    link: socket.socket


def warmed(command: Sequence[str]) -> list[str]:
    """Return the command of a SuperNode with a warm process, where the system has what that needs."""
    scripts = Path(sysconfig.get_path("scripts"))
    return [*WARM, str(scripts / command[0]), *command[1:]] if POSSIBLE else list(command)


def environment(folder: Path) -> dict[str, str]:
    """Return the variables by which a SuperNode finds the warm process of a folder."""
    path = os.pathsep.join([str(folder), sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, launcher.ADDRESS: str(folder / "socket")}


def main(command: Sequence[str]) -> None:
    """Become a command for which `flwr-clientapp` is the launcher; a child is the warm process, and ends with it."""
    folder, pid = Path(tempfile.mkdtemp(prefix="driftfed-")), os.getpid()
    write_launcher(folder)
    if os.fork():
        os.execve(command[0], list(command), os.environ | environment(folder))
    try:
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, lambda number, _: sys.exit(128 + number))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # the kernel sends it when the command ends
        if os.getppid() == pid:
            time.sleep(START_S)
            run = load()
            serve(listening(folder), run)  # not before, so that a message does not wait for it
    finally:
        shutil.rmtree(folder)


def load() -> Callable[[], object]:
    """Import what every ClientApp needs, and return Flower's command."""
    (command,) = entry_points(group="console_scripts", name=COMMAND)
    for module in LOADED:
        importlib.import_module(module)
    run: Callable[[], object] = command.load()
    return run


def write_launcher(folder: Path) -> None:
    """Write the command that stands in for Flower's into a folder."""
    words = shlex.join([sys.executable, "-IS", launcher.__file__])
    (folder / COMMAND).write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    (folder / COMMAND).chmod(0o700)


def listening(folder: Path) -> socket.socket:
    """Return the socket at which the launcher in a folder asks."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    (folder / "socket").chmod(0o600)
    listener.listen(64)
    return listener


def serve(listener: socket.socket, run: Callable[[], object]) -> NoReturn:
    """Fork for each launcher that connects, and run what it stands for."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                if fork := begin(listener.accept()[0], run):
                    for source in (fork.ended, fork.link):
                        selector.register(source, selectors.EVENT_READ, fork)
            elif key.fd in selector.get_map():  # it may have ended by both at once
                for source in (key.data.ended, key.data.link):
                    selector.unregister(source)
                finish(key.data)


def begin(link: socket.socket, run: Callable[[], object]) -> Fork | None:
    """Fork for a launcher; None if it asks for nothing."""
    link.settimeout(ORDER_S)
    streams: list[int] = []
    try:
        length, streams, _, _ = socket.recv_fds(link, 4, 3, socket.MSG_WAITALL)
        with link.makefile("rb") as file:
            order = json.loads(file.read(int.from_bytes(length, "big")))
        pid = os.fork()
        if pid == 0:
            answer(order, streams, run)
        link.sendall(b"b")
        return Fork(pid, os.pidfd_open(pid), link)
    except (OSError, ValueError):  # it died, or is no launcher
        link.close()
        return None
    finally:
        for stream in streams:
            os.close(stream)


def finish(fork: Fork) -> None:
    """Tell the launcher how its fork ended. If the launcher was killed, kill the fork."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(fork.ended, signal.SIGKILL)  # no effect on one that has ended
    code = os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1])
    with suppress(OSError):
        fork.link.sendall(bytes([code if code >= 0 else 128 - code]))
    fork.link.close()
    os.close(fork.ended)


def answer(order: Mapping[str, Any], streams: Sequence[int], run: Callable[[], object]) -> None:
    """Become the command that the launcher stands for: a fork runs this, and ends with it."""
    code: Any = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 4096)
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, signal.SIG_DFL)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        os.nice(max(0, order["nice"] - os.nice(0)))
        os.sched_setaffinity(0, order["cores"])
        resource.setrlimit(resource.RLIMIT_DATA, tuple(order["memory"]))
        random.seed()
        sys.modules["numpy"].random.seed()
        sys.modules["torch"].seed()
        for name in [name for name in sys.modules if name.partition(".")[0] == "experiments"]:
            del sys.modules[name]  # an app may have a package of that name
        sys.argv, sys.path[0] = [COMMAND, *order["arguments"]], sysconfig.get_path("scripts")
        run()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        if isinstance(code, str):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    if sys.argv[1] == "--at":
        write_launcher(Path(sys.argv[2]))
        run = load()
        serve(listening(Path(sys.argv[2])), run)
    else:
        main(sys.argv[1:])
