"""Run the Flower app of a folder with the real `flwr run`, on its own, and leave nothing behind.

Plain `flwr run` shares one SuperLink per machine, which keeps the environment and folder of whoever started it first;
its runs go on after Ctrl-C, and it exits with 0 when they fail. Here every run has a SuperLink, port, `FLWR_HOME`, Ray
cluster and empty working directory of its own in one temporary folder, and an exception says what went wrong.

For Linux and macOS. Nothing here depends on DriftFed: `project` may be any Flower app.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import tomli_w

BOOT_S = 60.0  # patience with a SuperLink that starts
DEATH_S = 10.0  # patience with killed processes
TAIL = 40  # log lines that an error quotes

# What `flwr run` may bundle: the rest of a project (results, data, virtual environments) is not even looked at.
BUNDLED = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}

# Lines that say nothing about the run and have no switch at their source.
NOISE = (
    "Starting logstream for run_id",  # the command line talks about itself
    "Using SuperLink: hermetic",
    "Successfully started run",
    "Successfully installed",
    "default simulated SuperNodes changed",  # printed whatever the number; ours is always given
    "simulated SuperNodes)",
    "To change federation size",
    "flwr federation simulation-config",
    "Manually terminating ClientAppActor",  # how Flower ends every simulation
    "The object store is using /tmp instead of /dev/shm",  # small containers; a run needs little of it
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# Waits until its input closes, which is when our process closes it or dies in whatever way, then kills process group $0
# and deletes folder $1.
GUARD = 'read -r _; kill -s KILL -- "-$0"; for _ in 1 2 3 4 5; do rm -rf "$1" && exit; sleep 1; done'


class FlowerRunFailed(RuntimeError):
    """A run did not end as `finished:completed`; `cause` says why, the message adds the end of the log."""

    def __init__(self, cause: str, log: str = "") -> None:
        super().__init__(f"the Flower run failed: {cause}" + (f"\nEnd of its log:\n{log}" if log else ""))
        self.cause = cause
        self.log = log


def flwr_run(
    project: Path,
    run_config: Mapping[str, str | int | float | bool],
    supernodes: int,
    cpus_per_client: int = 1,
    on_line: Callable[[str], None] | None = None,
    timeout_s: float | None = None,
) -> None:
    """Run the app in `project` once and return when it completed; `on_line` gets its log lines as they come.

    `run_config` overrides `[tool.flwr.app.config]`; paths in it should be absolute, since the app runs in an empty
    folder. Raises `FlowerRunFailed` if the run did not complete, within `timeout_s` if given.
    """
    with _superlink() as group:
        federation = f"num-supernodes={supernodes} client-resources-num-cpus={cpus_per_client}"
        submit(group, project, run_config, ["--federation-config", federation], on_line, timeout_s)


def submit(
    group: "Group",
    project: Path,
    run_config: Mapping[str, str | int | float | bool],
    options: Sequence[str] = (),
    on_line: Callable[[str], None] | None = None,
    timeout_s: float | None = None,
) -> None:
    """`flwr run` the app in `project` on the SuperLink that the group's default connection names; as `flwr_run`."""
    lines: deque[str] = deque(maxlen=TAIL)
    app, overrides = group.folder / "app", group.folder / "run.toml"
    copy_app(project, app)
    overrides.write_text(tomli_w.dumps(run_config), encoding="utf-8")
    given = ["--stream", "--run-config", str(overrides), *options]
    flwr = group.start("flwr", "run", str(app), *given, output=subprocess.PIPE)
    with _alarm(timeout_s, flwr.kill) as late:
        for line in _readable(flwr):
            lines.append(line)
            if on_line:
                on_line(line)
    cause = f"not finished within {timeout_s:g} s" if late.is_set() else _failure(group, flwr.wait())
    if cause:
        raise FlowerRunFailed(cause, "\n".join(lines))


def _failure(group: "Group", code: int) -> str:
    """Why the run failed, or nothing if it completed. The exit code of `flwr run` only tells whether it started."""
    if code:
        return f"`flwr run` ended with exit code {code}"
    listing = group.start("flwr", "ls", "--format", "json", output=subprocess.PIPE).communicate()[0]
    try:
        run = json.loads(listing)["runs"][0]
        status, details = run["status"], run.get("status-details")
    except (ValueError, LookupError, TypeError):
        return f"its status is unknown, `flwr ls` says: {listing.strip()}"
    return "" if status == "finished:completed" else details or status


def _readable(process: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines that a process prints, without colours, log prefix and noise."""
    assert process.stdout is not None
    with process.stdout:
        for raw in process.stdout:
            line = re.sub(r"^INFO\s*:\s*", "", COLOURS.sub("", raw)).rstrip()
            if line and not any(noise in line for noise in NOISE):
                yield line


@contextmanager
def private_folder() -> Iterator[Path]:
    """A private folder; its path is short because below it Ray opens Unix sockets, whose paths are limited."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="driftfed-", dir=base, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        for part in ("home", "cwd", "ray"):
            (folder / part).mkdir()
        yield folder


def copy_app(project: Path, target: Path) -> None:
    """Copy what a bundle may hold: `flwr run` looks at every file of a folder, seconds of work with a `.venv`."""

    def skipped(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if not bundled(Path(folder, name))}

    def bundled(path: Path) -> bool:
        if path.is_symlink() or (path.name.startswith(".") and path.name != ".gitignore"):
            return False
        if path.is_dir():
            return path.name != "__pycache__" and not (path / "pyvenv.cfg").exists()
        return path.suffix in BUNDLED or path.name in {"LICENSE", ".gitignore"}

    shutil.copytree(project, target, ignore=skipped)


@contextmanager
def _superlink() -> Iterator["Group"]:
    """A SuperLink and a SuperExec on a free port of this machine.

    They are started apart (`--isolation process`) since a SuperLink puts a SuperExec of its own, and with it Ray, into
    another session, out of the group's reach. A SuperExec installs no dependencies unless asked to.
    """
    for _ in range(3):  # another process may take the port between our look and the start
        port = free_port()
        with private_folder() as folder, Group(folder) as group, (folder / "superlink.log").open("w+b") as log:
            address = f"127.0.0.1:{port}"
            (folder / "home" / "config.toml").write_text(
                f'[superlink]\ndefault = "hermetic"\n[superlink.hermetic]\naddress = "{address}"\ninsecure = true\n'
            )
            options = f"--insecure --simulation --isolation process --host 127.0.0.1 --port {port}"
            superlink = group.start("flower-superlink", *options.split(), output=log)
            if _healthy(superlink, port):
                group.start("flower-superexec", "--insecure", "--runtime-api-address", address, output=log)
                yield group
                return
            log.seek(0)
            last_words = COLOURS.sub("", log.read().decode(errors="replace")).strip()
    raise FlowerRunFailed("the SuperLink did not start", last_words)


class Group:
    """Processes that end together, with `with` or with this process, however it dies.

    One process group holds Flower's processes and all that they start. A guard outside of it kills the group and
    deletes the folder once our end of a pipe is closed, which the kernel does even after SIGKILL.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = _environment(folder)
        self._guard: subprocess.Popen[bytes] | None = None
        self._members: list[subprocess.Popen[str]] = []

    def start(
        self,
        command: str,
        *arguments: str,
        output: IO[bytes] | int,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> "subprocess.Popen[str]":
        """Start one of Flower's commands in the group and the private working directory.

        Args:
            env: variables that differ from the group's; before: called in the new process, to limit it.
        """
        member = subprocess.Popen(
            [str(Path(sysconfig.get_path("scripts"), command)), *arguments],
            env={**self._env, **(env or {})},
            preexec_fn=before,
            cwd=self.folder / "cwd",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            process_group=self._members[0].pid if self._members else 0,
        )
        self._members.append(member)
        if self._guard is None:
            guard = ["/bin/sh", "-c", GUARD, str(member.pid), str(self.folder)]
            null = subprocess.DEVNULL
            self._guard = subprocess.Popen(
                guard, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True
            )
        return member

    @property
    def leader(self) -> int:
        """The number of the process group, once something was started."""
        return self._members[0].pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._members:
            return
        group = self.leader
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        for member in self._members:
            member.wait()
            if member.stdout:
                member.stdout.close()
        deadline = time.monotonic() + DEATH_S
        while lives(group) and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._guard:
            self._guard.communicate()


def lives(group: int) -> bool:
    """Whether a process group has a member that runs; one that only waits to be reaped by the system does not count."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except OSError:
            return False
        return True
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, members_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(members_group) == group and state not in "ZX":
                return True
    return False


def _environment(folder: Path) -> dict[str, str]:
    """Our environment without what would steer Flower, Ray or imports from outside, and with their noise off."""
    private = {
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # its absence is a FutureWarning
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
        "NO_PROXY": "127.0.0.1,localhost",  # a proxy for the internet must not get what stays on this machine
        "no_proxy": "127.0.0.1,localhost",
    }
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")}
    foreign = ("FLWR_", "RAY_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | threads | private


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(superlink: "subprocess.Popen[str]", port: int) -> bool:
    """Wait until the SuperLink answers; false if it died or took too long."""
    deadline = time.monotonic() + BOOT_S
    while superlink.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with suppress(OSError, http.client.HTTPException), closing(connection):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.1)
    return False


@contextmanager
def _alarm(seconds: float | None, action: Callable[[], None]) -> Iterator[threading.Event]:
    """Do `action` after that many seconds; the event tells whether it came to that."""
    late = threading.Event()
    if seconds is None:
        yield late
        return

    def ring() -> None:
        late.set()
        action()

    timer = threading.Timer(seconds, ring)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
