"""Run the Flower app of a folder with `flwr run`, isolated from other runs, and remove everything afterwards.

Plain `flwr run` uses one SuperLink per machine, which keeps the environment and folder of its first run. Its runs
continue after Ctrl-C, and it exits with 0 when they fail. Here every run has its own SuperLink, port, `FLWR_HOME`, Ray
cluster and empty working directory in one temporary folder, and a failed run raises an exception.

For Linux and macOS. This module does not depend on driftfed: `project` may be any Flower app.
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
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import tomli_w

from experiments.proxies import direct
from partitions.errors import UserError

BOOT_S = 60.0  # longest start of a SuperLink
DEATH_S = 10.0  # longest wait for the end of killed processes
TAIL = 40  # log lines that an error quotes

# Files that `flwr run` may bundle. Other files of a project (results, data, virtual environments) are not copied.
BUNDLED = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}

# Lines of the log that do not concern the run and cannot be switched off.
NOISE = (
    "Starting logstream for run_id",  # about the command line
    "Using SuperLink: hermetic",
    "Successfully started run",
    "Successfully installed",
    "default simulated SuperNodes changed",  # always printed; the number is given here
    "simulated SuperNodes)",
    "To change federation size",
    "flwr federation simulation-config",
    "Manually terminating ClientAppActor",  # the normal end of a simulation
    "The object store is using /tmp instead of /dev/shm",  # in small containers; a run needs little of it
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# Waits until its input closes, because this process closed it or ended for any reason. Then it kills process group $0
# and deletes folder $1.
GUARD = 'read -r _; kill -s KILL -- "-$0"; for _ in 1 2 3 4 5; do rm -rf "$1" && exit; sleep 1; done'


class FlowerRunFailed(UserError):
    """A run did not end as `finished:completed`; `cause` is the reason, and the message adds the end of the log."""

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
    add_keys: bool = False,
) -> None:
    """Run an app in a simulation, and return when it completed.

    Args:
        project: folder of the app.
        run_config: overrides `[tool.flwr.app.config]`. Paths must be absolute, because the app runs in an empty folder.
        on_line: called with each line of the log.
        add_keys: also set keys that the app's pyproject.toml does not have, which Flower refuses.

    Raises:
        FlowerRunFailed: the run did not complete, or not within `timeout_s`.
    """
    with _superlink() as group:
        federation = f"num-supernodes={supernodes} client-resources-num-cpus={cpus_per_client}"
        submit(group, project, run_config, ["--federation-config", federation], on_line, timeout_s, add_keys)


def submit(
    group: "Group",
    project: Path,
    run_config: Mapping[str, str | int | float | bool],
    options: Sequence[str] = (),
    on_line: Callable[[str], None] | None = None,
    timeout_s: float | None = None,
    add_keys: bool = False,
) -> None:
    """Run an app on the SuperLink of the group's default connection; the arguments are those of `flwr_run`."""
    lines: deque[str] = deque(maxlen=TAIL)
    app, overrides = group.folder / "app", group.folder / "run.toml"
    copy_app(project, app)
    if add_keys:
        add_to_config(app / "pyproject.toml", run_config)
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
    """Return why the run failed; empty if it completed. The exit code of `flwr run` only says whether it started."""
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
    """Yield the lines that a process prints, without colours, log prefix and noise."""
    assert process.stdout is not None
    with process.stdout:
        for raw in process.stdout:
            line = re.sub(r"^INFO\s*:\s*", "", COLOURS.sub("", raw)).rstrip()
            if line and not any(noise in line for noise in NOISE):
                yield line


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a private folder. Its path is short because Ray opens Unix sockets in it, whose paths are limited."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="driftfed-", dir=base, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        for part in ("home", "cwd", "ray"):
            (folder / part).mkdir()
        yield folder


def copy_app(project: Path, target: Path) -> None:
    """Copy the files that a bundle may have. `flwr run` looks at every file, which takes seconds with a `.venv`."""

    def skipped(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if not bundled(Path(folder, name))}

    def bundled(path: Path) -> bool:
        if path.is_symlink() or (path.name.startswith(".") and path.name != ".gitignore"):
            return False
        if path.is_dir():
            return path.name != "__pycache__" and not (path / "pyvenv.cfg").exists()
        return path.suffix in BUNDLED or path.name in {"LICENSE", ".gitignore"}

    shutil.copytree(project, target, ignore=skipped)


def add_to_config(path: Path, run_config: Mapping[str, str | int | float | bool]) -> None:
    """Add keys to `[tool.flwr.app.config]` of a pyproject.toml; keys that it has keep their values."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    config = project["tool"]["flwr"]["app"].setdefault("config", {})
    for key, value in run_config.items():
        *tables, name = key.split(".")
        table = config
        for part in tables:
            table = table.setdefault(part, {})
        table.setdefault(name, value)
    path.write_text(tomli_w.dumps(project), encoding="utf-8")


@contextmanager
def _superlink() -> Iterator["Group"]:
    """Run a SuperLink and a SuperExec on a free port of this machine.

    They are started separately (`--isolation process`). Otherwise the SuperLink would start its SuperExec, and with it
    Ray, in another session outside of the group. A SuperExec installs no dependencies by default.
    """
    for _ in range(3):  # another process may take the free port first
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
            end = COLOURS.sub("", log.read().decode(errors="replace")).strip()
    raise FlowerRunFailed("the SuperLink did not start", end)


class Group:
    """Processes that end with the `with` block, or with this process for any reason.

    One process group has Flower's processes and their children. A guard outside of the group kills it and deletes the
    folder when this process's end of a pipe closes. The kernel closes it even after SIGKILL.
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
            env: further variables; before: called in the new process, e.g. to limit its memory.
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
        """The id of the process group, after the first `start`."""
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
    """Return whether a process group has a running member. Zombies do not count."""
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
    """Return this environment without variables of Flower, Ray and Python, and with their messages switched off."""
    private = {
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray gives a FutureWarning without it
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
    }
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")}
    foreign = ("FLWR_", "RAY_", "PYTHON")
    kept = {name: value for name, value in direct(os.environ).items() if not name.startswith(foreign)}
    return kept | threads | private


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(superlink: "subprocess.Popen[str]", port: int) -> bool:
    """Wait until the SuperLink answers. Return False if it ended or took too long."""
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
    """Call `action` after this many seconds; the event is set when that happens."""
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
