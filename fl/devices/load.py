"""What this machine can spare at the moment. Needs nothing but Python, so that a broken environment can be checked."""

import os
import resource
from contextlib import suppress
from pathlib import Path

NO_LIMIT = 2**62  # bytes; a kernel without a limit reports more than this


def cores() -> set[int]:
    """Return the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def free_compute() -> float:
    """Return the share of a core that a new process gets, 0 to 1, beside the load of the last minute."""
    return min(1.0, len(cores()) / (os.getloadavg()[0] + 1))


def free_memory(root: Path = Path("/")) -> float:
    """Return the bytes that this process may still take: the least that machine, cgroup and its own limit leave.

    Args:
        root: where /proc and /sys are, for tests.
    """
    left = [1024.0 * _table(root / "proc/meminfo")["MemAvailable"]]
    with suppress(OSError, ValueError, LookupError):  # no cgroup v2, or one without a limit ('max')
        own = (root / "proc/self/cgroup").read_text().split("0::/", 1)[1].split("\n")[0]
        group = root / "sys/fs/cgroup" / own
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        left.append(limit - used + _table(group / "memory.stat")["inactive_file"])
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if 0 <= limit < NO_LIMIT:
        left.append(limit - 1024 * _table(root / "proc/self/status")["VmData"])
    return max(0.0, min(left))


def _table(path: Path) -> dict[str, int]:
    """Read the lines 'name: number unit' or 'name number' of a kernel file."""
    rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
