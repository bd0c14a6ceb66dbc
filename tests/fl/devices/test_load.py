"""What this machine can spare at the moment."""

import os
import resource
from pathlib import Path

import pytest

from fl.devices.load import free_compute, free_memory


def test_background_load_takes_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for load, share in ((0.0, 1.0), (3.0, 1.0), (7.0, 0.5), (39.0, 0.1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 99.0, 99.0))
        assert free_compute() == pytest.approx(share)


def test_free_memory_is_the_least_of_machine_container_and_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:   5000 kB\n")
    write("proc/self/status", "Name:\tpython\nVmData:\t 1000 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (-1, -1))
    assert free_memory(tmp_path) == 5000 * 1024
    write("proc/self/cgroup", "0::/system.slice/driftfed.service\n")
    group = "sys/fs/cgroup/system.slice/driftfed.service"
    write(f"{group}/memory.current", "3000000\n")
    write(f"{group}/memory.stat", "anon 5\ninactive_file 500000\nslab 7\n")
    write(f"{group}/memory.max", "max\n")
    assert free_memory(tmp_path) == 5000 * 1024
    write(f"{group}/memory.max", "4000000\n")
    assert free_memory(tmp_path) == 1_500_000
    monkeypatch.setattr(resource, "getrlimit", lambda what: (2_024_000, 2_024_000))
    assert free_memory(tmp_path) == 1_000_000
    monkeypatch.undo()
    assert free_memory() > 1e6  # on the machine that runs this
