"""What hardware a client has, and what it can spare at a step: arithmetic on a table."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from partitions import Purpose, rng

KINDS = ("phones", "boards", "testbed", "all")


@dataclass(frozen=True)
class Hardware:
    """One device class.

    Args:
        name: of the model.
        ram_gb: memory, GB.
        mac_per_s: multiply-accumulates a second in training.
        link_mbit_s: up and down, Mbit/s.
    """

    name: str
    ram_gb: float
    mac_per_s: float
    link_mbit_s: float


@dataclass(frozen=True)
class Shares:
    """What a client can spare at a step, as shares of the cost of the large cloud model: link, compute, memory."""

    link: float
    compute: float
    memory: float


@dataclass(frozen=True)
class Table:
    """The device classes of one kind, and the ranks that turn hardware into shares.

    Args:
        classes: name, ram_gb, mac_per_s; link_mbit: the slowest link and the fastest.
        dealt: client d has class d modulo their number, as in the paper's testbed; else its class is drawn.
    """

    classes: tuple[tuple[str, float, float], ...]
    link_mbit: tuple[float, float]
    dealt: bool = False

    @staticmethod
    @lru_cache
    def of(kind: str) -> "Table":
        """Return the table of 'phones', 'boards', 'testbed' (equally many of each board) or 'all'."""
        raw = tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))
        point = raw["mac_per_s_per_point"]
        phones = [(p["name"], p["ram_gb"], p["score"] * point) for p in raw["phone"]]
        boards = [(b["name"], b["ram_gb"], b["mac_per_s"]) for b in raw["board"]]
        chosen = {"phones": phones, "boards": boards, "testbed": boards, "all": phones + boards}[kind]
        low, high = raw["link_mbit_range"]
        return Table(tuple(chosen), (low, high), dealt=kind == "testbed")

    def draw(self, seed: int, device: int) -> Hardware:
        """Draw the hardware of a client, fixed for a run."""
        generator = rng(seed, Purpose.PROFILE, device)
        drawn = int(generator.integers(len(self.classes)))
        name, ram_gb, mac_per_s = self.classes[device % len(self.classes) if self.dealt else drawn]
        low, high = self.link_mbit
        return Hardware(name, ram_gb, mac_per_s, float(np.exp(generator.uniform(math.log(low), math.log(high)))))

    def rank(self, hardware: Hardware) -> Shares:
        """Rank a device among its kind, per resource: 0 the weakest, 1 the strongest; ties share a rank."""
        low, high = self.link_mbit
        link = (math.log(hardware.link_mbit_s) - math.log(low)) / (math.log(high) - math.log(low))
        rams = np.array([c[1] for c in self.classes])
        macs = np.array([c[2] for c in self.classes])
        return Shares(link, _rank(macs, hardware.mac_per_s), _rank(rams, hardware.ram_gb))


class HardwareMap(dict[int, Hardware]):
    """The hardware of each client: as its machine reported it, or drawn when it is first asked for."""

    def __init__(self, table: Table, seed: int, reported: Mapping[int, Hardware]):
        super().__init__(reported)
        self.table, self.seed = table, seed

    def __missing__(self, device: int) -> Hardware:
        self[device] = self.table.draw(self.seed, device)
        return self[device]


def _rank(values: np.ndarray, value: float) -> float:
    return float(((values < value).mean() + (values <= value).mean()) / 2)


def shares(
    table: Table, hardware: Hardware, seed: int, device: int, step: int, low: float, high: float, load: float
) -> Shares:
    """Return what a client can spare at ``step``: ``low + (high - low) * rank`` per resource, less background load.

    The models of a simulation are far smaller than the phones' memories, so budgets are relative: the weakest device
    can afford ``low`` of the large cloud model, the strongest ``high``. Background load takes up to the share ``load``
    of compute and memory, drawn anew at every step.
    """
    rank = table.rank(hardware)
    busy = load * rng(seed, Purpose.LOAD, device, step).random(2)

    def share(position: float) -> float:
        return low + (high - low) * position

    return Shares(share(rank.link), share(rank.compute) * (1 - busy[0]), share(rank.memory) * (1 - busy[1]))
