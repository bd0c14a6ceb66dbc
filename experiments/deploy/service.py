"""A long-lived process of a deployment: started once, found again by its pid file, stopped with all that it started."""

import http.client
import json
import os
import resource
import signal
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.deploy.identity import DeployError
from experiments.hermetic import COLOURS, lives

BOOT_S = 60.0  # patience with a process that starts
STOP_S = 10.0  # patience with a process that was asked to stop
TAIL = 12  # log lines that an error quotes

_children: dict[int, "subprocess.Popen[bytes]"] = {}  # of this process: whoever starts one must bury it


@dataclass(frozen=True)
class Service:
    """A process with a folder of its own: ``pid.json``, ``log``, Flower's ``home`` and a ``cache``."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def start(self, command: Sequence[str], ready: Callable[[str], bool], limit_bytes: int = 0) -> bool:
        """Start it in a session of its own, unless it runs, and wait until it is at work.

        Args:
            ready: tells by what it has logged, and may look elsewhere, whether it is at work.
            limit_bytes: of memory that each of its processes may hold; 0: no limit.

        Returns:
            Whether it was started now.

        Raises:
            DeployError: it ended or did not get ready, with the end of its log.
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
                env=environment(self.folder),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=(lambda: limit_memory(limit_bytes)) if limit_bytes else None,
            )
        _children[process.pid] = process
        self._file.write_text(json.dumps({"pid": process.pid, "since": _since(process.pid)}), encoding="utf-8")
        end = time.monotonic() + BOOT_S
        try:
            while not ready(path.read_bytes()[begin:].decode(errors="replace")):
                if process.poll() is not None or time.monotonic() > end:
                    why = "ended" if process.poll() is not None else f"is not ready after {BOOT_S:.0f} s"
                    raise DeployError(f"{self.name} {why}, and this is what it said:\n{self._last_words(begin)}")
                time.sleep(0.1)
        except BaseException:  # Ctrl-C as well
            self.stop()
            raise
        return True

    def pid(self) -> int | None:
        """Of the running process; a number that another process has got since does not count."""
        try:
            said = json.loads(self._file.read_text(encoding="utf-8"))
            pid, since = int(said["pid"]), said["since"]
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if _since(pid) == since and _state(pid) not in "ZX" else None

    def stop(self) -> bool:
        """End the process and its session, gently and then for good; returns whether it ran."""
        pid = self.pid()
        if pid:
            for how, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
                with suppress(ProcessLookupError):
                    os.killpg(pid, how)
                end = time.monotonic() + patience
                while lives(pid) and time.monotonic() < end:
                    time.sleep(0.05)
        self._file.unlink(missing_ok=True)
        for number in [number for number, child in _children.items() if child.poll() is not None]:
            del _children[number]
        return pid is not None

    def _last_words(self, begin: int) -> str:
        lines = COLOURS.sub("", (self.folder / "log").read_bytes()[begin:].decode(errors="replace")).splitlines()
        return "\n".join([line for line in lines if line.strip()][-TAIL:])

    @property
    def _file(self) -> Path:
        return self.folder / "pid.json"


def script(name: str) -> str:
    """One of the commands that were installed beside this Python."""
    return str(Path(sysconfig.get_path("scripts"), name))


def environment(folder: Path) -> dict[str, str]:
    """Our environment, with Flower's home and the app's cache in a service's folder, and one thread per process."""
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
    return {**os.environ, **own}


def limit_memory(limit_bytes: int) -> None:
    """Let no process that starts from here hold more than so many bytes of its own; the kernel refuses it the rest."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def healthy(address: str, authority: Path | None) -> str:
    """Why the SuperLink at ``address`` (host:port) does not answer, or nothing if it does.

    Args:
        authority: the certificate that it must be signed with; None: a SuperLink without TLS.
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


def connect(address: str, authority: Path | None, timeout: float = 5.0) -> http.client.HTTPConnection:
    """A connection to the SuperLink, not yet opened.

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
    """All that were ever started from a deployment's folder."""
    found = [folder / "superlink", *sorted((folder / "supernodes").glob("*"))]
    return [Service(path) for path in found if path.is_dir()]


def _since(pid: int) -> str:
    """When a process started, in ticks since the machine did; nothing where /proc does not tell."""
    return (_stat(pid) or [""] * 20)[19]


def _state(pid: int) -> str:
    return (_stat(pid) or ["?"])[0]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, group ..."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []
