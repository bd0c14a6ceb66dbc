"""A machine that is a client: what its owner says of it in the SuperNode's node-config, and what is measured on it.

In simulation nothing here is used: `fl.devices.hardware` draws hardware from a table. With ``devices.placement =
"own"`` a client is the Linux machine that its SuperNode runs on. What it can spare follows from

    link      Mbit/s of the link (node-config), for ``devices.link-budget-s``
    compute   MAC/s of local training, timed once on the real model and kept, less what other programs take now, for
              ``devices.train-budget-s``
    memory    the free memory of the machine, the container and the process; a `RESERVE` of it stays free

as shares of what the large cloud model costs, as in simulation, and never above the ``limit-*`` of its node-config.
"""

import math
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl.config import SettingsError
from fl.devices.hardware import Hardware, Shares
from fl.devices.load import free_compute, free_memory
from models.costs import Cost
from partitions.components import hyphens

RESERVE = 0.5  # of the free memory, for the interpreter, the message and the machine's other work

Measure = Callable[[], tuple[float, Cost]]
"""Gives MAC/s of local training on this machine, and the cost of the large cloud model (`Workload.measure`)."""


class Machine(BaseModel):
    """A SuperNode's node-config. Keys are written with hyphens (``link-mbit-s``); unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=hyphens, populate_by_name=True)

    partition_id: int = Field(-1, description="number of the client in runs, from 0")
    device_class: str = Field("", description="what the machine is, for devices.csv; empty: its processor")
    data: str = Field("", description="folder of its own data; empty: its part of the run's data set")
    ram_gb: float = Field(0.0, ge=0, description="memory, GB; 0: what the machine has")
    mac_per_s: float = Field(0.0, ge=0, description="multiply-accumulates a second in training; 0: timed")
    link_mbit_s: float = Field(0.0, ge=0, description="Mbit/s to the SuperLink; `deploy supernode` times it")
    limit_link: float = Field(math.inf, gt=0, description="most bytes of a sub-model, as a share of the large model's")
    limit_compute: float = Field(math.inf, gt=0, description="the same of its MACs")
    limit_memory: float = Field(math.inf, gt=0, description="the same of its training memory")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Machine":
        """Read the node-config.

        Raises:
            SettingsError: says in one sentence what is wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            field = cls.model_fields[key.replace("-", "_")]
            said = first["msg"][0].lower() + first["msg"][1:]
            raise SettingsError(f"node-config {key} = {first['input']!r}: {said} ({field.description})") from None

    def hardware(self, measure: Measure) -> Hardware:
        """Return what the machine is, for the virtual clock: as given or as measured.

        Raises:
            SettingsError: the speed of its link, or of its processor in this workload, is unknown.
        """
        if not self.link_mbit_s:
            raise SettingsError(
                "node-config lacks link-mbit-s, the Mbit/s to the SuperLink: give it, or start the SuperNode with "
                "`python -m experiments deploy supernode`, which times it"
            )
        name = self.device_class or platform.machine()
        ram_gb = self.ram_gb or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        return Hardware(name, ram_gb, self.mac_per_s or measure()[0], self.link_mbit_s)

    def spare(self, measure: Measure, passes: float, train_budget_s: float, link_budget_s: float) -> Shares:
        """Return what the machine can spare now, as shares of the large cloud model.

        Args:
            passes: forward passes of one sample that a round of local training is worth.
            train_budget_s, link_budget_s: longest local training, longest transfer of a sub-model, seconds.

        Raises:
            SettingsError: as `hardware` does.
        """
        hardware, (_, whole) = self.hardware(measure), measure()
        link = hardware.link_mbit_s * 1e6 / 8 * link_budget_s
        compute = hardware.mac_per_s * free_compute() * train_budget_s / passes
        memory = free_memory() * (1 - RESERVE)
        return Shares(
            min(link / whole.bytes, self.limit_link),
            min(compute / whole.macs, self.limit_compute),
            min(memory / whole.memory, self.limit_memory),
        )
