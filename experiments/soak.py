"""A long run of tiny rounds while devices fall silent, crash, lie and answer twice, and the cloud itself breaks down.

Nothing may pile up (memory, open files, processes, files of devices), and no row may be missing or double.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.engines.proxy import GridProxy
from fl.messages import records as wire
from fl.results.files import CHECKPOINTS, ResultsError
from fl.results.reader import read_rounds
from fl.server.run import Event, open_results, run
from partitions import Purpose, rng
from strategies import STRATEGIES

TINY = {
    "strategies": "fedavg,la,eclm", "eval-every": 10**6, "local-epochs": 1, "adapt-epochs": 1,
    "samples-min": 10, "samples-max": 20, "test-samples": 10, "dense-epochs": 2, "modular-epochs": 1,
    "ability-epochs": 1,
}  # fmt: skip
SPOIL: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda value: value * float("nan"),
    "huge": lambda value: value + 1e30,
    "shape": lambda value: value[..., :1],
}
FAULTS = (*SPOIL, "silent", "crash", "garbage", "other device", "twice", "stale")
BREAKDOWN = 0.02  # share of the exchanges after which the cloud breaks down, and is started again
GROWTH = 32e6  # bytes by which a process may grow from a quarter of the run on: an allocator keeps what it likes


def same(value: Tensor) -> Tensor:
    return value


class SoakFailed(ResultsError):
    """Something piled up or went missing; the message says what."""


class Breakdown(Exception):
    """The cloud is gone; what it had in memory with it."""


class FaultyGrid(GridProxy):
    """Passes messages on to another grid and spoils a share of the answers, as the addresses of its dice say.

    Args:
        inner: carries every message.
        rate: share of the answers; seen: how often which fault was made; broken: moments at which the cloud broke down.
    """

    def __init__(self, inner: Grid, rate: float, seen: Counter[str], broken: set[tuple[str, int]]):
        super().__init__(inner)
        self.rate, self.seen, self.broken = rate, seen, broken
        self.earlier: Message | None = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = list(messages)
        replies = list(self.inner.send_and_receive(asked, timeout=timeout))
        spoiled = [a for message, reply in zip(asked, replies, strict=True) for a in self._spoil(message, reply)]
        if asked:
            task = asked[0].content[wire.TASK]
            moment = str(task["method"]), int(task["moment"])  # type: ignore[arg-type]
            dice = rng(int(task["seed"]), Purpose.POISON, moment[1], len(moment[0]))  # type: ignore[arg-type]
            if dice.random() < BREAKDOWN and moment not in self.broken:
                self.broken.add(moment)
                raise Breakdown
        return spoiled

    def _spoil(self, message: Message, reply: Message) -> list[Message]:
        task = message.content[wire.TASK]
        dice = rng(int(task["seed"]), Purpose.POISON, int(task["moment"]), int(task["device"]), 1)  # type: ignore[arg-type]
        before, self.earlier = self.earlier, reply
        if reply.has_error() or dice.random() >= self.rate:
            return [reply]
        fault = str(dice.choice(FAULTS))
        self.seen[fault] += 1
        report, model = dict(reply.content[wire.REPORT]), reply.content.get(wire.MODEL)
        match fault:
            case "silent":
                return []
            case "crash":
                return [Message(Error(2, "crashed"), reply_to=message)]
            case "twice":
                return [reply, reply]
            case "stale":
                return [] if before is None else [before]
            case "garbage":
                return [Message(RecordDict(), reply_to=message)]
            case "other device":
                report["device"] = int(task["device"]) + 1  # type: ignore[arg-type]
        content = RecordDict({wire.REPORT: MetricRecord(report)})  # type: ignore[arg-type]
        if isinstance(model, ArrayRecord):
            content[wire.MODEL] = wire.pack({k: SPOIL.get(fault, same)(v) for k, v in wire.unpack(model).items()})
        return [Message(content, reply_to=message)]


@dataclass(frozen=True)
class Load:
    """What this process holds: resident bytes, open files, children."""

    bytes: int
    files: int
    processes: int

    @classmethod
    def now(cls) -> "Load":
        """As Linux's /proc tells; zeros elsewhere."""
        own = Path("/proc/self")
        if not own.is_dir():
            return cls(0, 0, 0)
        children = [child for task in (own / "task").iterdir() for child in (task / "children").read_text().split()]
        resident = int((own / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls(resident, len(list((own / "fd").iterdir())), len(children))


@dataclass
class Soak:
    """What came of it: the load after each round of each method; the faults made; how often the cloud broke down."""

    loads: dict[str, list[Load]]
    faults: Counter[str]
    breakdowns: int


def soak(devices: int, rounds: int, rate: float, workers: int, out: Path, tell: Callable[[Event, Load], None]) -> Soak:
    """Run to the end, however often the cloud breaks down.

    Raises:
        SoakFailed: something piled up, a row is missing or double, or something is left behind.
    """
    loads: dict[str, list[Load]] = {}

    def observe(event: Event) -> None:
        if event.kind == "round":
            now = Load.now()
            loads.setdefault(event.what, []).append(now)
            tell(event, now)

    before = Load.now()
    with tempfile.TemporaryDirectory() as kept:
        values = {**TINY, "devices": devices, "cohort": max(1, min(20, devices // 2)), "rounds": rounds}
        values["rounds-per-step"] = max(1, rounds // 12)
        settings = Settings.parse({**values, "experiment": "soak", "state-root": kept})
        seen: Counter[str] = Counter()
        broken: set[tuple[str, int]] = set()
        going_on, anew = True, True
        while going_on:
            with (
                open_results([settings], out, overwrite=anew) as results,
                LocalGrid(settings.flat(), devices, workers) as grid,
            ):
                anew = False
                try:
                    run(settings, FaultyGrid(grid, rate, seen, broken), results, observe)
                    going_on = False
                except Breakdown:
                    pass
        left = [path for path in Path(kept).rglob("*") if path.is_file()]
    _check(settings, out, loads, before, left)
    return Soak(loads, seen, len(broken))


def _check(settings: Settings, out: Path, loads: dict[str, list[Load]], before: Load, left: list[Path]) -> None:
    rows = Counter(zip(*(read_rounds(out)[name] for name in ("method", "round")), strict=True))
    reports = [report for method in settings.methods for report in STRATEGIES[method].reports]
    wanted = Counter((report, round_) for report in reports for round_ in range(1, settings.rounds + 1))
    if rows != wanted:
        raise SoakFailed(f"rows missing: {list(wanted - rows)[:5]}, rows double or unknown: {list(rows - wanted)[:5]}")
    if left or (out / CHECKPOINTS).exists():
        raise SoakFailed(f"left behind: {[str(path) for path in left[:5]] or out / CHECKPOINTS}")
    after = Load.now()
    for method, own in loads.items():
        early, late = own[len(own) // 4], own[-1]
        if late.bytes > early.bytes + GROWTH:
            grown = f"{early.bytes / 1e6:.0f} MB at a quarter of its rounds to {late.bytes / 1e6:.0f} MB"
            raise SoakFailed(f"memory grew under {method}, from {grown}")
        if late.files > early.files or after.files > before.files:
            raise SoakFailed(f"open files grew: {before.files}, {early.files}, {late.files}, {after.files}")
    if after.processes > before.processes:
        raise SoakFailed(f"{after.processes - before.processes} processes were left behind")
