"""`python -m experiments doctor`: check this machine and its environment before a run.

A check imports what is not in Python's own library when it needs it. So a broken environment is a finding.
"""

from __future__ import annotations  # an old Python must get as far as its finding

import argparse
import http.client
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path

from experiments.proxies import EXCEPTIONS, LOCAL, direct, host_of, proxied

PROJECT = Path(__file__).resolve().parents[1]
PYTHONS = (3, 11), (3, 14)
INSTALL = "run `make venv`, or `pip install .` in the project folder"
MEMORY, SHARED, DISK = 1e9, 64e6, 1e9  # bytes: a small run takes 0.9 GB; Docker gives 64 MB of /dev/shm
AHEAD_S, BEHIND_S = 5.0, 300.0  # how far a device's clock may be from the SuperLink's: else Flower refuses its messages
PORTS = {8000: "--port", 8001: "--control-port"}


@dataclass(frozen=True)
class Finding:
    """What a check found. Args: level: ok, warn, or FAIL if it prevents a run; advice: what to do."""

    level: str
    what: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.level:4}  {self.what}: {self.found}" + (f"; {self.advice}" if self.advice else "")
        return " ".join(line.encode("ascii", "backslashreplace").decode().splitlines())


def python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    """Check the version of Python."""
    found, (first, last) = ".".join(map(str, version[:3])), PYTHONS
    if first <= tuple(version[:2]) <= last:
        return Finding("ok", "Python", found)
    return Finding("FAIL", "Python", f"{found} is not 3.{first[1]} to 3.{last[1]}", "make PY=python3.12 venv")


def packages(
    required: Iterable[str] | None = None, installed: Callable[[str], str | None] = metadata.version
) -> Finding:
    """Check the installed packages against the ranges of the project."""
    from packaging.requirements import Requirement

    wrong, count = [], 0
    for text in _requirements() if required is None else required:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            found = installed(requirement.name)
        except metadata.PackageNotFoundError:
            found = None
        if not found:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if wrong:
        return Finding("FAIL", "packages", ", ".join(wrong), INSTALL)
    return Finding("ok", "packages", f"all {count} that are required, in fitting versions")


def cores(count: int | None = None) -> Finding:
    """Check how many cores this process may use."""
    if count is None:
        from fl.devices import load

        count = len(load.cores())
    if count > 1:
        return Finding("ok", "cores", f"{count}, so {count} worker processes simulate clients")
    return Finding("warn", "cores", "1", "a run simulates one client at a time; give this container or job more cores")


def memory(free: float | None = None) -> Finding:
    """Check the memory that machine, container and process limits leave."""
    if free is None:
        from fl.devices.load import free_memory

        free = free_memory()
    said = f"{free / 1e9:.1f} GB free"
    if free >= MEMORY:
        return Finding("ok", "memory", said)
    advice = f"a small run takes {MEMORY / 1e9:.0f} GB: stop other programs or raise the limit of the container"
    return Finding("FAIL", "memory", said, advice)


def shared_memory(folder: Path = Path("/dev/shm"), size: Callable[[Path], int] | None = None) -> Finding:
    """Check the size of /dev/shm, which Ray uses."""
    if not folder.is_dir():
        return Finding("ok", "shared memory", f"no {folder}; Ray uses the temporary folder")
    total = (size or (lambda path: shutil.disk_usage(path).total))(folder)
    if total > SHARED:
        return Finding("ok", "shared memory", f"{folder} has {total / 1e9:.1f} GB")
    advice = "the engines ray and flower use /tmp instead, which is slower: `docker run --shm-size=1g`"
    return Finding("warn", "shared memory", f"{folder} has {total / 1e6:.0f} MB", advice)


def writable(what: str, folder: Path, name_another: str) -> Finding:
    """Check that files can be written to a folder. Args: name_another: how another folder is named."""
    from partitions.errors import DataError
    from partitions.root import probe

    try:
        probe(folder, f"the {what} is there")
        free = shutil.disk_usage(folder).free
    except (DataError, OSError) as error:
        return Finding("FAIL", what, str(error), name_another)
    said = f"{folder} can be written, {free / 1e9:.1f} GB free"
    return Finding("ok", what, said) if free >= DISK else Finding("warn", what, said, f"make room, or {name_another}")


def folders(state_root: str = "") -> Iterator[Finding]:
    """Check the folders of caches, data sets and clients' models."""
    from partitions.errors import DataError
    from partitions.root import ENVIRONMENT, Root, cache_folder

    cache = cache_folder()
    yield writable("cache folder", cache, "set XDG_CACHE_HOME to another folder")
    try:
        yield writable("data folder", Root.at().target, f"set {ENVIRONMENT} to another folder")
    except DataError as error:
        yield Finding("FAIL", "data folder", str(error))
    state = Path(state_root).expanduser() if state_root else cache / "devices"
    yield writable("state folder", state, "name another one by devices.state-root")


def ports(folder: Path, numbers: Mapping[int, str] = PORTS) -> Finding:
    """Check that the ports of a SuperLink are free, or used by the one that `deploy superlink` started."""
    from experiments.deploy.service import Service

    if pid := Service(folder / "superlink").pid():
        return Finding("ok", "ports", f"the SuperLink of {folder} runs, process {pid}")
    taken = {port: option for port, option in numbers.items() if not _is_free(port)}
    if not taken:
        return Finding("ok", "ports", f"{' and '.join(map(str, numbers))} are free for a SuperLink")
    advice = f"stop that program, or use `deploy superlink {' '.join(f'{option} N' for option in taken.values())}`"
    return Finding("warn", "ports", f"another program uses {' and '.join(map(str, taken))}", advice)


def proxies(environ: Mapping[str, str], superlink: str = "") -> Finding:
    """Check that Flower's own commands do not send what is for this machine or the SuperLink to a proxy."""
    hosts = dict.fromkeys([*LOCAL[:2], *filter(None, [host_of(superlink)])])
    names = proxied(environ, *hosts)
    if not names:
        return Finding("ok", "proxies", "none between this machine and a SuperLink")
    wanted = direct(environ, *hosts)
    lost = [name for name in names if name not in wanted]  # SOCKS, which Flower cannot use
    unset = f"unset {' '.join(lost)}; " if lost else ""
    advice = f"`{unset}export {' '.join(f'{name}={wanted[name]}' for name in EXCEPTIONS)}`"
    return Finding("FAIL", "proxies", f"{', '.join(names)} would divert `flwr run` from {', '.join(hosts)}", advice)


def reachable(superlink: str, authority: Path | None, given: bool) -> Finding:
    """Check that a SuperLink answers. Args: given: the user named it, so it must."""
    from experiments.deploy.service import healthy

    if authority and not authority.is_file():
        return Finding("FAIL" if given else "warn", "SuperLink", f"{authority} is missing", "copy it from the server")
    why = healthy(superlink, authority)
    if not why:
        return Finding("ok", "SuperLink", f"{superlink} answers")
    advice = "on the server: `python -m experiments deploy superlink`; then check name, port and firewall"
    return Finding("FAIL" if given else "warn", "SuperLink", f"{superlink} does not answer: {why}", advice)


def clock(ahead_s: float, of: str) -> Finding:
    """Check how far this machine's clock is ahead of another one."""
    if -BEHIND_S <= ahead_s <= AHEAD_S:
        return Finding("ok", "clock", f"agrees with {of}")
    said = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} {of}"
    return Finding("FAIL", "clock", said, "Flower refuses messages: set it, e.g. `timedatectl set-ntp true`")


def examine(superlink: str = "", folder: Path | None = None, state_root: str = "") -> Iterator[Finding]:
    """Yield the findings of all checks. Args: superlink: host:port, empty: the one that is known on this machine."""
    folder = folder or Path(os.environ.get("DRIFTFED_DEPLOY", "~/.driftfed")).expanduser().absolute()
    yield from _tried("Python", python)
    yield from _tried("packages", packages)
    yield from _tried("cores", cores)
    yield from _tried("memory", memory)
    yield from _tried("shared memory", shared_memory)
    yield from _tried("folders", lambda: folders(state_root))
    yield from _tried("ports", lambda: ports(folder))
    address: str = superlink
    authority: Path | None = folder / "ca.crt"
    if not superlink:
        with suppress(ImportError):  # `packages` names it
            address, authority = _known(folder)
    yield from _tried("proxies", lambda: proxies(os.environ, address))
    if address:
        yield from _tried("SuperLink", lambda: reachable(address, authority, bool(superlink)))
    yield from _tried("clock", lambda: _clock(address, authority, folder))


def main() -> None:
    """Print all findings. The exit status is 1 if one of them prevents a run."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments doctor",
        description="Check this machine and its environment before a run: a line for each check, and what to do.",
        epilog="Exit status 1: something prevents a run.",
    )
    parser.add_argument("--superlink", default="", metavar="HOST:PORT", help="the SuperLink of a deployment")
    parser.add_argument("--folder", type=Path, help="the folder of `deploy` (default: $DRIFTFED_DEPLOY or ~/.driftfed)")
    parser.add_argument("--state-root", default="", metavar="FOLDER", help="what devices.state-root will be in the run")
    options = parser.parse_args(sys.argv[2:])
    failed = 0
    for finding in examine(options.superlink, options.folder, options.state_root):
        print(finding, flush=True)
        failed += finding.level == "FAIL"
    print(f"correct what failed ({failed}) before a run" if failed else "a run can start")
    sys.exit(bool(failed))


def _tried(what: str, check: Callable[[], Finding | Iterable[Finding]]) -> Iterator[Finding]:
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found
    except ImportError as error:
        yield Finding("FAIL", what, f"cannot be checked: {error}", INSTALL)
    except Exception as error:  # a damaged package may raise anything
        yield Finding("warn", what, f"cannot be checked: {error or type(error).__name__}")


def _requirements() -> list[str]:
    """Return what the project requires: as in its pyproject.toml or, where only the package is installed, in that."""
    path = PROJECT / "pyproject.toml"
    if not path.is_file():
        return metadata.requires("driftfed") or []
    import tomllib

    requirements: list[str] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    return requirements


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _known(folder: Path) -> tuple[str, Path | None]:
    """Return address and authority of the SuperLink that `deploy connect` or `deploy supernode` was given here."""
    from experiments.deploy.flower import connections, flower_home
    from experiments.deploy.service import services

    lab = connections(flower_home()).get("lab", {})
    if lab.get("address"):
        authority = lab.get("root-certificates")
        return str(lab["address"]), Path(authority) if authority else None
    given = [str(service.given()["superlink"]) for service in services(folder) if "superlink" in service.given()]
    return given[0] if given else "", folder / "ca.crt"


def _clock(superlink: str, authority: Path | None, folder: Path) -> Finding:
    """Compare the clock with the SuperLink's or, if none answers, with the files of the project and the deployment."""
    if superlink:
        with suppress(OSError, http.client.HTTPException, ValueError, TypeError):
            return clock(_ahead(superlink, authority is not None), f"the SuperLink {superlink}")
    files = [PROJECT / "pyproject.toml", Path(__file__), folder / "ca.crt"]
    newest = max(path.stat().st_mtime for path in files if path.exists())
    return clock(min(0.0, time.time() - newest), "the newest file of this project")


def _ahead(superlink: str, tls: bool) -> float:
    """Return the seconds by which this clock is ahead of the SuperLink's, to a second.

    The certificate is not verified: to a clock that is wrong it may seem invalid.
    """
    host, port = host_of(superlink), int(superlink.rpartition(":")[2])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection(host, port, timeout=5, context=context)
        if tls
        else http.client.HTTPConnection(host, port, timeout=5)
    )
    with closing(connection):
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp() - 0.5
