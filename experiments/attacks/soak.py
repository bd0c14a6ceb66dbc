"""A long run of tiny rounds with faulty clients, faulty transport and crashes of the server.

Memory, open files, processes and files of clients must not grow, and no row may be missing or written twice.
"""

import ctypes
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from experiments.attacks import Attack, Figures, Show, quiet
from fl.config import Settings
from fl.engines.engine import Aggregator, GridProxy, as_engine
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.results.files import CHECKPOINTS, ResultsError
from fl.results.reader import read_rounds
from fl.server.run import Event, execute, open_results
from fl.workloads.resolve import Run, resolve
from partitions import Purpose, rng

TINY = {
    "strategies": "fedavg,la,eclm", "eval.every": 10**6, "client.local-epochs": 1, "client.adapt-epochs": 1,
    "data.samples-min": 10, "data.samples-max": 20, "data.test-samples": 10, "pretrain.dense-epochs": 2,
    "pretrain.modular-epochs": 1, "pretrain.ability-epochs": 1,
}  # fmt: skip
SPOIL: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda value: value * float("nan"),
    "huge": lambda value: value + 1e30,
    "shape": lambda value: value[..., :1],
}
CLIENT_FAULTS = (*SPOIL, "crash", "garbage", "other device")  # change a reply
TRANSPORT_FAULTS = ("silent", "twice", "stale")  # change which replies arrive: none, two, an earlier one
FAULTS = (*CLIENT_FAULTS, *TRANSPORT_FAULTS)
CRASH = 0.02  # probability that the server crashes after an exchange of messages; it is started again
GROWTH = 32e6  # bytes that a process may grow by after a quarter of the run: an allocator keeps some freed memory


class SoakFailed(ResultsError):
    """Something leaked or is missing; the message says what."""


class ServerCrash(Exception):
    """The server loses everything that it has in memory."""


def fault_of(message: Message, rate: float) -> str:
    """Draw the fault that the reply to a message has; empty for none. Every process draws the same."""
    task = message.content[records.TASK]
    dice = rng(int(task["seed"]), Purpose.POISON, int(task["moment"]), int(task["device"]), 1)  # type: ignore[arg-type]
    return str(dice.choice(FAULTS)) if dice.random() < rate else ""


def spoiled(fault: str, message: Message, reply: Message) -> Message:
    """Return the reply of a client that has one of the `CLIENT_FAULTS`."""
    if fault == "crash":
        return Message(Error(2, "crashed"), reply_to=message)
    if fault == "garbage":
        return Message(RecordDict(), reply_to=message)
    report, model = dict(reply.content[records.REPORT]), reply.content.get(records.MODEL)
    if fault == "other device":
        report["device"] = int(message.content[records.TASK]["device"]) + 1  # type: ignore[arg-type]
    content = RecordDict({records.REPORT: MetricRecord(report)})  # type: ignore[arg-type]
    if isinstance(model, ArrayRecord):
        spoil = SPOIL.get(fault, lambda value: value)
        content[records.MODEL] = records.pack({k: spoil(v) for k, v in records.unpack(model).items()})
    return Message(content, reply_to=message)


class FaultyAggregator:
    """Spoils a share of the replies, in worker processes too, and passes them on to another aggregator.

    Args:
        inner: collects the replies.
        rate: share of the replies that are spoiled.
    """

    def __init__(self, inner: Aggregator, rate: float):
        self.inner, self.rate = inner, rate

    def add(self, message: Message, reply: Message) -> Message:
        fault = fault_of(message, self.rate)
        if fault in ("silent", "stale"):  # the update never reaches the server
            return Message(RecordDict({records.REPORT: reply.content[records.REPORT]}), reply_to=message)
        if fault in CLIENT_FAULTS:
            reply = spoiled(fault, message, reply)
        return reply if reply.has_error() else self.inner.add(message, reply)

    def part(self) -> Any:
        return self.inner.part()

    def merge(self, part: Any) -> None:
        self.inner.merge(part)


class FaultyGrid(GridProxy):
    """Passes messages on to another grid, spoils a share of the replies, and sometimes makes the server crash.

    Args:
        inner: carries every message.
        rate: share of the replies that are spoiled.
        seen: counts the faults; crashes: moments at which the server crashed, which happens once at each.
    """

    def __init__(self, inner: Grid, rate: float, seen: Counter[str], crashes: set[tuple[str, int]]):
        super().__init__(inner)
        self.rate, self.seen, self.crashes = rate, seen, crashes
        self.earlier: Message | None = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        replies = list(self.inner.send_and_receive(sent, timeout=timeout))
        for i, (message, reply) in enumerate(zip(sent, replies, strict=True)):
            if not reply.has_error() and (fault := fault_of(message, self.rate)) in CLIENT_FAULTS:
                replies[i] = spoiled(fault, message, reply)
        return self._arrived(sent, replies)

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        """Let workers spoil the replies before they aggregate them."""
        sent = list(messages)
        replies = as_engine(self.inner).aggregate(sent, FaultyAggregator(aggregator, self.rate), timeout)
        return self._arrived(sent, replies)

    def _arrived(self, sent: Sequence[Message], replies: Sequence[Message]) -> list[Message]:
        """Return the replies that arrive at the server.

        Raises:
            ServerCrash: the server crashed meanwhile.
        """
        arrived: list[Message] = []
        for message, reply in zip(sent, replies, strict=True):
            before, self.earlier = self.earlier, reply
            fault = fault_of(message, self.rate)
            self.seen.update([fault] if fault else [])
            came = {"silent": [], "twice": [reply, reply], "stale": [before] if before else []}
            arrived += came.get(fault, [reply])
        if sent:
            task = sent[0].content[records.TASK]
            moment = str(task["method"]), int(task["moment"])  # type: ignore[arg-type]
            dice = rng(int(task["seed"]), Purpose.POISON, moment[1], len(moment[0]))  # type: ignore[arg-type]
            if dice.random() < CRASH and moment not in self.crashes:
                self.crashes.add(moment)
                raise ServerCrash
        return arrived


@dataclass(frozen=True)
class Load:
    """The resources of this process: resident bytes, open files, children."""

    bytes: int
    files: int
    processes: int

    @classmethod
    def now(cls) -> "Load":
        """Read the resources from Linux's /proc; zeros on other systems.

        Freed memory goes back to the system first, where the C library can do that. It would count as growth.
        """
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        own = Path("/proc/self")
        if not own.is_dir():
            return cls(0, 0, 0)
        children = [child for task in (own / "task").iterdir() for child in (task / "children").read_text().split()]
        resident = int((own / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls(resident, len(open_files()), len(children))


def open_files() -> list[str]:
    """Return what this process has open, on Linux."""
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # that of the listing itself is closed by now
            found.append(str(link.readlink()))
    return sorted(found)


@dataclass
class Soak:
    """The result: the load after each round of each method, the faults, and the number of crashes of the server."""

    loads: dict[str, list[Load]]
    faults: Counter[str]
    crashes: int


def soak(clients: int, rounds: int, rate: float, workers: int, out: Path, tell: Callable[[Event, Load], None]) -> Soak:
    """Run to the end, however often the server crashes.

    Raises:
        SoakFailed: something leaked, a row is missing or written twice, or a file is left over.
    """
    loads: dict[str, list[Load]] = {}

    def observe(event: Event) -> None:
        if event.kind == "round":
            now = Load.now()
            loads.setdefault(event.what, []).append(now)
            tell(event, now)

    before = Load.now()
    with tempfile.TemporaryDirectory() as state_root:
        values = {**TINY, "devices.count": clients, "cohort": max(1, min(20, clients // 2)), "rounds": rounds}
        values |= {"rounds-per-step": max(1, rounds // 12), "experiment": "soak", "devices.state-root": state_root}
        run = resolve(Settings.parse(values))
        seen: Counter[str] = Counter()
        crashes: set[tuple[str, int]] = set()
        unfinished, overwrite = True, True
        while unfinished:
            with (
                open_results([run], out, overwrite) as results,
                LocalGrid(run.settings.flat(), clients, workers) as grid,
            ):
                overwrite = False
                try:
                    execute(run, FaultyGrid(grid, rate, seen, crashes), results, observe)
                    unfinished = False
                except ServerCrash:
                    pass
        left = [path for path in Path(state_root).rglob("*") if path.is_file()]
    _check(run, out, loads, before, left)
    return Soak(loads, seen, len(crashes))


def _check(run: Run, out: Path, loads: dict[str, list[Load]], before: Load, left: list[Path]) -> None:
    rows = Counter(zip(*(read_rounds(out)[name] for name in ("method", "round")), strict=True))
    wanted = Counter((report, round_) for report in run.reports for round_ in range(1, run.settings.rounds + 1))
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
        if late.files > early.files or after.files > early.files:  # what a process opens once is open at a quarter
            grown = f"{early.files}, {late.files}, {after.files}"
            raise SoakFailed(f"open files grew: {grown}; now open: {', '.join(open_files())}")
    if after.processes > before.processes:
        raise SoakFailed(f"{after.processes - before.processes} processes were left behind")


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Soak three methods for so many rounds; the faults follow from their address, so the seed changes nothing."""
    figures = Figures()
    clients = max(8, min(500, 2 * size))
    try:
        with quiet():
            found = soak(
                clients, size, 0.3, 1, folder, lambda event, load: show(f"{event.what} {event.at} of {event.of}")
            )
    except ResultsError as error:
        figures.add({}, str(error))
        return figures
    memory = {f"{method}: MB at the end": round(loads[-1].bytes / 1e6) for method, loads in found.loads.items()}
    figures.add({"crashes": found.crashes, **memory}, tries=found.faults.total())
    return figures


ATTACKS = {"soak": Attack("faulty replies and crashes in many rounds", attack, {"smoke": 12, "full": 300}, "faults")}
