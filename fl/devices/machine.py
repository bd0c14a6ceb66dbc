"""A machine that is a device: what its owner says of it in the SuperNode's node-config, and what is measured on it.

In simulation nothing here is used: `fl.devices.hardware` draws hardware from a table. With ``placement = "own"`` a device is the
machine that its SuperNode runs on, a Linux one, and what it can spare follows from

    link      Mbit/s of the link (node-config), for ``link-budget-s``
    compute   MAC/s of local training, timed once on the real model and kept, less what other programs take now, for
              ``train-budget-s``
    memory    what is free now of the machine's, the container's and the process's memory; a `RESERVE` of it stays free

as shares of what the large cloud model costs, as in simulation, and never above the ``limit-*`` of its node-config.
"""

import hashlib
import json
import math
import os
import platform
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl.config.settings import Settings, SettingsError
from fl.devices.clock import BACKWARD
from fl.devices.hardware import Hardware, Shares
from fl.workloads.world import architectures, recipe
from models.costs import Cost, CostModel
from models.training.loop import fit
from partitions import Purpose, rng
from partitions.root import cache_folder

RESERVE = 0.5  # of the free memory, for the interpreter, the message and the machine's other work
TIMED_WORKLOAD = "classify"  # whose model is timed; the device's owner must know what others do
TIMED_S = 0.5  # of CPU time that the measurement of compute takes
TIMED_BATCHES = 8
NO_LIMIT = 2**62  # bytes; what a kernel without a limit says is above this


class Node(BaseModel):
    """A SuperNode's node-config. Keys are written with hyphens (``link-mbit-s``); others belong to somebody else."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )

    partition_id: int = Field(-1, description="number of the device in runs, from 0")
    device_class: str = Field("", description="what the machine is, for devices.csv; empty: its processor")
    data: str = Field("", description="folder of its own data; empty: those that the run's data set deals it")
    ram_gb: float = Field(0.0, ge=0, description="memory, GB; 0: what the machine has")
    mac_per_s: float = Field(0.0, ge=0, description="multiply-accumulates a second in training; 0: timed")
    link_mbit_s: float = Field(0.0, ge=0, description="Mbit/s to the SuperLink; `deploy supernode` times it")
    limit_link: float = Field(math.inf, gt=0, description="most that it bears, as a share of the large model's bytes")
    limit_compute: float = Field(math.inf, gt=0, description="the same of its MACs")
    limit_memory: float = Field(math.inf, gt=0, description="the same of its training memory")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Node":
        """The node-config.

        Raises:
            SettingsError: in one sentence, what is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            field = cls.model_fields[key.replace("-", "_")]
            said = first["msg"][0].lower() + first["msg"][1:]
            raise SettingsError(f"node-config {key} = {first['input']!r}: {said} ({field.description})") from None

    def hardware(self, settings: Settings) -> Hardware:
        """What the machine is, for the virtual clock: as told or as measured.

        Raises:
            SettingsError: nobody knows how fast its link is, or its processor in this workload.
        """
        if not self.link_mbit_s:
            raise SettingsError(
                "node-config lacks link-mbit-s, the Mbit/s to the SuperLink: give it, or start the SuperNode with "
                "`python -m experiments deploy supernode`, which times it"
            )
        if not self.mac_per_s and settings.workload != TIMED_WORKLOAD:
            raise SettingsError(
                f"node-config lacks mac-per-s, which is timed for workload '{TIMED_WORKLOAD}' alone: give it"
            )
        name = self.device_class or platform.machine()
        ram_gb = self.ram_gb or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        return Hardware(name, ram_gb, self.mac_per_s or timed(settings)[0], self.link_mbit_s)

    def spare(self, settings: Settings) -> Shares:
        """What the machine can spare now, as shares of the large cloud model.

        Raises:
            SettingsError: as `hardware` does.
        """
        hardware, (_, whole) = self.hardware(settings), timed(settings)
        work = BACKWARD * settings.local_epochs * settings.samples_max  # MACs of a round for each of a forward pass
        link = hardware.link_mbit_s * 1e6 / 8 * settings.link_budget_s
        compute = hardware.mac_per_s * free_compute() * settings.train_budget_s / work
        memory = free_memory() * (1 - RESERVE)
        return Shares(
            min(link / whole.bytes, self.limit_link),
            min(compute / whole.macs, self.limit_compute),
            min(memory / whole.memory, self.limit_memory),
        )


@lru_cache(maxsize=4)
def timed(settings: Settings) -> tuple[float, Cost]:
    """MAC/s of local training on one idle core, and what the large cloud model costs; kept in the cache folder.

    A process lives for one message, so both are measured by the first one and read by all others.
    """
    model, how = architectures(settings)["dense"], recipe(settings)
    what: list[object] = [settings.model, settings.norm, sorted(model.sizes.items()), model.input_shape]
    what += [how.batch_size, how.optimizer, how.slots, how.precision, torch.__version__, platform.node()]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    path = cache_folder() / "machine" / f"{digest[:20]}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        return float(kept["mac_per_s"]), Cost(*kept["whole"])
    whole = CostModel(model, how.batch_size, how.slots).whole
    rate = _time(settings, whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"mac_per_s": rate, "whole": whole.vector}), encoding="utf-8")
    temporary.replace(path)
    return rate, whole


def _time(settings: Settings, whole: Cost) -> float:
    """MAC/s of `models.training.loop.fit` on made-up samples, in CPU time: what other programs do meanwhile does not count."""
    model, how = architectures(settings)["dense"], recipe(settings)
    generator, order = torch.Generator().manual_seed(0), rng(0, Purpose.PROFILE)
    body = model.build(model.sizes, generator)
    n = TIMED_BATCHES * how.batch_size
    x = torch.randn(n, *model.input_shape, generator=generator)
    y = torch.randint(model.sizes["classes"], (n,), generator=generator)
    fit(body, x, y, how, 1, order)  # what happens once, such as allocations
    samples, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < TIMED_S:
        fit(body, x, y, how, 1, order)
        samples += n
    return BACKWARD * whole.macs * samples / spent


def free_compute() -> float:
    """What a process that starts now gets of a core, 0 to 1, where the last minute's load shares all cores with it."""
    cores = len(os.sched_getaffinity(0))
    return min(1.0, cores / (os.getloadavg()[0] + 1))


def free_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still take: the least of what the machine, its cgroup and its own limit leave it.

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
    """The lines 'name: number unit' or 'name number' of a file of the kernel's."""
    rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
