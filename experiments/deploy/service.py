"""A long-lived process of a deployment: started once, found again by its pid file, stopped with its children."""

import http.client
import json
import os
import resource
import signal
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.deploy.identity import DeployError
from experiments.hermetic import COLOURS, lives
from experiments.proxies import direct

BOOT_S = 60.0  # longest start of a process
STOP_S = 10.0  # longest end of a process after a signal
TAIL = 12  # log lines that an error quotes

Given = str | int | float  # value of an option

_children: dict[int, "subprocess.Popen[bytes]"] = {}  # started by this process, which must wait for them


@dataclass(frozen=True)
class Service:
    """A process with its own folder, which holds ``pid.json``, ``log``, Flower's ``home`` and a ``cache``."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def start(
        self,
        command: Sequence[str],
        ready: Callable[[str], bool],
        limit_bytes: int = 0,
        environ: Mapping[str, str] | None = None,
        given: Mapping[str, Given] | None = None,
    ) -> bool:
        """Start the process in a new session, unless it runs already, and wait until it is ready.

        Args:
            ready: returns whether the process is ready, given its log; it may also use other signs.
            limit_bytes: memory limit of each of its processes; 0: no limit.
            environ: its environment; None: `environment` of its folder.
            given: the user's options, for `given`.

        Returns:
            Whether this call started it.

        Raises:
            DeployError: the process ended or did not become ready; the message quotes the end of its log.
        """
        if self.pid():
            return False
        for part in ("home", "cache"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        path = self.folder / "log"
        with path.open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                [script(command[0]), *command[1:]],
                env=environment(self.folder) if environ is None else environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=(lambda: limit_memory(limit_bytes)) if limit_bytes else None,
            )
        _children[process.pid] = process
        self._given.write_text(json.dumps(given or {}), encoding="utf-8")
        self._file.write_text(json.dumps({"pid": process.pid, "since": _since(process.pid)}), encoding="utf-8")
        end = time.monotonic() + BOOT_S
        try:
            while not ready(path.read_bytes()[begin:].decode(errors="replace")):
                if process.poll() is not None or time.monotonic() > end:
                    why = "ended" if process.poll() is not None else f"is not ready after {BOOT_S:.0f} s"
                    raise DeployError(f"{self.name} {why}; the end of its log:\n{self._last_lines(begin)}")
                time.sleep(0.1)
        except BaseException:  # Ctrl-C as well
            self.stop()
            raise
        return True

    def pid(self) -> int | None:
        """Return the id of the running process; None if it ended, also if another process has this id now."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            pid, since = int(found["pid"]), found["since"]
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if _since(pid) == since and _state(pid) not in "ZX" else None

    def given(self) -> dict[str, Given]:
        """Return the options with which the process was last started."""
        with suppress(OSError, ValueError):
            return dict(json.loads(self._given.read_text(encoding="utf-8")))
        return {}

    def stop(self) -> bool:
        """End the process and all that it started, with SIGTERM and then SIGKILL. Return whether it was running."""
        pid = self.pid()
        if pid:
            groups = _groups(pid)  # a SuperLink starts its SuperExec, and with it ServerApps, in another session
            for kind in (signal.SIGTERM, signal.SIGKILL):
                for group in groups:
                    with suppress(ProcessLookupError):
                        os.killpg(group, kind)
                end = time.monotonic() + STOP_S
                while any(map(lives, groups)) and time.monotonic() < end:
                    time.sleep(0.05)
        self._file.unlink(missing_ok=True)
        for number in [number for number, child in _children.items() if child.poll() is not None]:
            del _children[number]
        return pid is not None

    def _last_lines(self, begin: int) -> str:
        lines = COLOURS.sub("", (self.folder / "log").read_bytes()[begin:].decode(errors="replace")).splitlines()
        return "\n".join([line for line in lines if line.strip()][-TAIL:])

    @property
    def _given(self) -> Path:
        return self.folder / "given.json"

    @property
    def _file(self) -> Path:
        return self.folder / "pid.json"


def script(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sysconfig.get_path("scripts"), name))


def environment(folder: Path, *hosts: str) -> dict[str, str]:
    """Return this environment, with Flower's home and the cache in a service's folder and one thread per process.

    Args:
        hosts: other machines that are reached without a proxy.
    """
    own = {
        "FLWR_HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
        "OMP_NUM_THREADS": "1",
    }
    return direct(os.environ, *hosts) | own


def limit_memory(limit_bytes: int) -> None:
    """Limit the data memory of this process and of each process that it starts; the kernel refuses more."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def healthy(address: str, authority: Path | None) -> str:
    """Return why the SuperLink at ``address`` (host:port) does not answer; an empty text if it does.

    Args:
        authority: certificate of the authority that signed the SuperLink's certificate; None: no TLS.
    """
    try:
        with closing(connect(address, authority)) as connection:
            connection.request("GET", "/health")
            status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message
        return f"its certificate is not trusted ({why}): copy its ca.crt, or name this host in `deploy certificates`"
    except (OSError, http.client.HTTPException) as error:
        return f"{error or type(error).__name__}"
    return "" if status == 200 else f"it answers with status {status}"


def for_devices_only(address: str, authority: Path | None) -> bool:
    """Return whether ``address`` is the port for devices, which refuses the Control API (`experiments.deploy.gate`)."""
    with closing(connect(address, authority)) as connection:
        connection.request("GET", "/v1/control")
        return connection.getresponse().status == 403


def connect(address: str, authority: Path | None, timeout: float = 5.0) -> http.client.HTTPConnection:
    """Return a connection to the SuperLink that is not open yet.

    Raises:
        DeployError: the address is not host:port.
        OSError: the authority's certificate cannot be read.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise DeployError(f"'{address}' is no address of a SuperLink: write host:port, e.g. lab.local:8000")
    if authority is None:
        return http.client.HTTPConnection(host, int(port), timeout=timeout)
    context = ssl.create_default_context(cafile=str(authority))
    return http.client.HTTPSConnection(host, int(port), timeout=timeout, context=context)


def services(folder: Path) -> list[Service]:
    """Return all services that were ever started from a deployment's folder."""
    found = [folder / "superlink", folder / "gate", *sorted((folder / "supernodes").glob("*"))]
    return [Service(path) for path in found if path.is_dir()]


def _groups(pid: int) -> set[int]:
    """Return the process groups of a process and of its descendants; only its own on a system without /proc."""
    family, groups = {pid}, {pid}
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    grown = True
    while grown:
        born = {child for child, stat in parents.items() if stat and int(stat[1]) in family} - family
        family |= born
        groups |= {int(parents[child][2]) for child in born}
        grown = bool(born)
    return groups


def _since(pid: int) -> str:
    """Return when a process started, in ticks since the machine started; empty on a system without /proc."""
    return (_stat(pid) or [""] * 20)[19]


def _state(pid: int) -> str:
    return (_stat(pid) or ["?"])[0]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, group ..."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []
