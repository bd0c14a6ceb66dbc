"""Any method of `strategies` as a Flower `Strategy` on the Message API.

It speaks for the method on the wire: asks devices for their profiles, packs a task for each device (payloads differ),
refuses answers that must not touch the model, and keeps the ledger of bytes, virtual time and work. A device's
failure is counted and never ends a run.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from logging import INFO, WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerBase
from torch import Tensor

from fl import workloads
from fl.config.settings import Settings
from fl.devices.clock import BACKWARD, link_seconds, train_seconds
from fl.devices.hardware import Drawn, Table
from fl.engines.grid import OwnGrid
from fl.messages import records as wire
from fl.server.arrivals import Arrival, Arrivals
from fl.server.fleet import Fleet
from fl.server.measures import NAN, Divergence, load_cv
from fl.server.sums import Sum, Verdict, judge
from fl.workloads.state_store import MOMENTS
from models.costs import Cost
from models.elastic.supernet import TRIALS
from models.nn.body import bypass_axis, fetched, gate_columns
from models.submodel import FULL, Coverage, covered_sizes
from partitions import Purpose, rng
from strategies.base import Averaging, Limits, Measure, Profile, Strategy, Task, Update, rebase, sub_sizes

ABSURD = 1e6  # times the large model: nobody can spare that
AT_ONCE = 64  # devices that are delivered their models at the same time
MEASURES: tuple[Measure, ...] = ("delivered", "adapted")


@dataclass
class Ledger:
    """What one round cost, all devices together where nothing else is said."""

    devices: int = 0  # that trained
    withheld: int = 0  # of these, whose model changed too little to be uploaded
    failures: int = 0
    refused: int = 0  # updates of devices that were asked
    refused_answers: int = 0  # of a device that was not asked, or had answered, or speaks for another
    late: int = 0  # updates that came after the deadline, or are of an earlier round
    divergence: float = NAN  # of the updates
    module_divergence: float = NAN  # of the updates, in the blocks that can be cut into modules
    load_cv: float = NAN  # of the modules
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0  # virtual, until the cloud had what it merged
    train_macs: float = 0.0
    memory_bytes: float = 0.0  # of the device that needed most
    measures: dict[str, float] = field(default_factory=dict)  # of the workload, weighted by examples


@dataclass(frozen=True)
class DeviceScore:
    """How one device fares: (accuracy, balanced accuracy, loss) as delivered and after adaptation."""

    device: int
    samples: int
    delivered: tuple[float, float, float]
    adapted: tuple[float, float, float]
    deliver_bytes: int
    share: float  # of the cloud model's parameters
    macs: float  # of one forward pass of one sample
    memory_bytes: float  # that adaptation takes
    seconds: Mapping[Measure, float]  # virtual, from the device's query to the model that is scored
    former: Mapping[Measure, float] | None  # accuracy on the test draw of the step before
    measures: Mapping[Measure, Mapping[str, float]]  # of the workload


def means(scores: Sequence[DeviceScore], which: Measure) -> dict[str, float]:
    """What the workload measures of the models scored, mean over devices."""
    return weighted((1, score.measures[which]) for score in scores)


def weighted(told: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """The weighted mean of each measure over those that told it."""
    values: dict[str, list[tuple[float, int]]] = {}
    for weight, own in told:
        for name, value in own.items():
            values.setdefault(name, []).append((value, weight))
    return {name: sum(v * w for v, w in values[name]) / sum(w for _, w in values[name]) for name in sorted(values)}


@dataclass
class FlowerStrategy(FlowerBase):
    """A method, the devices it works with, and the ledger.

    Args:
        method: of `strategies`; name, run: by which devices tell their files apart.
    """

    method: Strategy
    name: str
    settings: Settings
    fleet: Fleet
    run: str
    ledger: Ledger = field(default_factory=Ledger)
    scores: list[DeviceScore] = field(default_factory=list)
    complaint: str = ""  # why an answer was of no use, the last that was

    def __post_init__(self) -> None:
        self.hardware = Drawn(Table.of(self.settings.hardware), self.method.seed, self.fleet.hardware)
        self.arrivals = Arrivals(
            self.settings.buffer if self.settings.aggregation == "buffered" else None,
            self.settings.deadline_s or math.inf,
        )
        self._profiles: dict[int, tuple[int, Profile]] = {}  # by device: (step, what it said)
        self._equipped: set[int] = set()  # devices that hold the selector
        self._tasks: dict[int, Task] = {}
        self._asked: list[Profile] = []
        self._spent: dict[int, float] = {}  # virtual seconds of each device in this round
        self._own: dict[int, float] = {}  # of these, in this step, those that go into the model a device uses
        self._down: dict[int, int] = {}
        self._sent: dict[int, Metadata] = {}  # the messages that answers are awaited to
        self._examples: dict[int, int] = {}  # that a device trained on when it last said so

    def saved(self) -> dict[str, Any]:
        """What must outlive a round: the method's memory, and what the devices told, hold and are at."""
        return {
            "method": self.method.saved(),
            "profiles": self._profiles,
            "equipped": self._equipped,
            "own": self._own,
            "examples": self._examples,
            "now": self.arrivals.now,
            "version": self.arrivals.version,
            "under way": self.arrivals.under_way,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave, in a new process."""
        self.method.load(saved["method"])
        self._profiles, self._equipped, self._own = saved["profiles"], saved["equipped"], saved["own"]
        self._examples = saved["examples"]
        self.arrivals.now, self.arrivals.version = saved["now"], saved["version"]
        self.arrivals.under_way = saved["under way"]

    # Flower's four verbs

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Query the cohort, then one message with its own payload for each device."""
        self.ledger, self._spent = Ledger(), {}
        if self.method.plan.starts_step(server_round):
            self._own = {}
            if not self.method.asks_once:
                self._profiles = {}  # of a step that is over
        generator = rng(self.method.seed, Purpose.COHORT, server_round, 1)
        cohort = self.arrivals.free(self.method.cohort(server_round), generator)
        self._asked = self._ask(grid, cohort, server_round, 0)
        self.ledger.failures += len(cohort) - len(self._asked)
        self._tasks = self.method.tasks(server_round, self._asked)
        messages = self._messages(self._tasks, server_round, "train", 1)
        for device, byte_count in self._down.items():
            self.ledger.bytes_down += byte_count
            self._spend(device, link_seconds(self.hardware[device], byte_count))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message], summed: Sum | None = None
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge what is fit to be merged and arrives in time; count the rest.

        Args:
            summed: where the engine took the updates out of the replies and added them up.
        """
        updates: dict[int, Update] = {}
        losses, measured = [], []
        for device, content in self._good(replies, self._sent):
            task = self._tasks[device]
            if summed is None:
                verdict = judge(self.settings, self._classes, device, task, content)
            else:
                verdict = summed.verdicts.get(device, Verdict(0, why="was not added up"))
            self.ledger.bytes_up += verdict.byte_count
            update, why = verdict.update, verdict.why
            try:
                cost = self._cost(task, wire.metrics(content))
            except Exception as error:  # whatever a device sends, it must not end the run
                why = why or f"{type(error).__name__}: {error}"
            if update is None or why:
                self.ledger.refused += 1
                self._complain(f"update of device {device} refused: {why}")
                continue
            self.ledger.devices += 1
            self.ledger.withheld += verdict.withheld
            if not verdict.withheld:
                updates[device] = update
            losses.append(verdict.loss)
            measured.append((update.examples, verdict.measures))
            hardware, examples = self.hardware[device], update.examples
            self._examples[device] = examples
            work = train_seconds(hardware, cost.macs, examples, task.epochs)
            work += link_seconds(hardware, verdict.byte_count)
            self._spend(device, work)
            if task.keep and not task.upload:
                self._own[device] = self._own.get(device, 0.0) + link_seconds(hardware, self._down[device]) + work
            self.ledger.train_macs += BACKWARD * cost.macs * examples * task.epochs
            self.ledger.memory_bytes = max(self.ledger.memory_bytes, cost.memory)
        self.ledger.measures = weighted(measured)
        self.ledger.failures += len(self._tasks) - self.ledger.devices - self.ledger.refused
        self._measure([(self._tasks[device], update) for device, update in updates.items()], summed)
        told = {profile.device: profile for profile in self._asked}
        stayed: list[Arrival] = []  # what devices keep to themselves is not waited for
        for device, update in updates.items():
            arrival = self.arrivals.expect(self._spent[device], update, self._tasks[device], told[device])
            (self.arrivals.under_way if arrival.task.upload else stayed).append(arrival)
        merged, self.ledger.late, self.ledger.seconds = self.arrivals.merge(self._spent.values())
        if summed is None:
            self._absorb(server_round, [*stayed, *merged])
        elif summed.total is not None:
            assert isinstance(self.method, Averaging)
            self.method.adopt(summed.total)
            self.arrivals.version += 1
        return None, MetricRecord({"loss": float(np.mean(losses))}) if losses else None

    def _measure(self, trained: Sequence[tuple[Task, Update]], summed: Sum | None) -> None:
        """How the updates disagree, and how evenly they train the modules."""
        method, cloud = self.method, self.method.cloud
        if self.settings.measure_divergence and (divergence := self._divergence(trained, summed)):
            self.ledger.divergence = divergence.value(self._parameters)
            modules = {*cloud.modular_costs.layers, *cloud.modular_costs.bypass}
            cut = [name for name in self._parameters if modules & set(method.axes[name])]
            self.ledger.module_divergence = divergence.value(cut)
        if trained and method.architecture == "modular":
            columns = [self._columns(task.coverage) for task, _ in trained]
            self.ledger.load_cv = load_cv(columns, {layer: len(all_) for layer, all_ in self._columns(FULL).items()})

    def _divergence(self, trained: Sequence[tuple[Task, Update]], summed: Sum | None) -> Divergence | None:
        if summed is not None:
            return summed.divergence
        divergence = Divergence(self.method.axes, self.method.model)
        sent = [(task, update) for task, update in trained if task.upload and task.state is not None]
        for task, update in sent:
            assert task.state is not None
            divergence.add(update.state, task.state, task.coverage)
        return divergence if sent else None

    @cached_property
    def _known_measures(self) -> Mapping[str, str]:
        return workloads.find(self.settings.workload).MEASURES

    @cached_property
    def _parameters(self) -> list[str]:
        """What is trained of the method's model: its entries but the statistics."""
        architecture = self.method.cloud.architectures[self.method.architecture]
        return [name for name, p in architecture.part(FULL).named_parameters() if p.requires_grad]

    def _columns(self, coverage: Coverage) -> dict[str, Tensor]:
        """The modules of a modular (sub-)model by layer, as they are numbered on the wire."""
        modular, layers = self.method.cloud.modular, self.method.cloud.modular_costs.layers
        return {layer: gate_columns(modular.sizes, layer, coverage) for layer in layers}

    def _absorb(self, server_round: int, merged: Sequence[Arrival]) -> None:
        """Let the method merge, in the order of device numbers; late updates as updates of the present model."""
        if not merged:
            return
        merged, now = sorted(merged, key=lambda arrival: arrival.update.device), self.arrivals.version
        self.method.absorb(
            server_round,
            {a.update.device: a.task for a in merged},
            [rebase(self.method, a.task, a.update, now - a.version) for a in merged],
            [a.profile for a in merged],
        )
        self.arrivals.version += 1

    def train(self, server_round: int, grid: Grid) -> None:
        """The first two verbs; an engine that can (`fl.engines.grid.OwnGrid`) adds the updates up where they are made."""
        messages = list(self.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid))
        if isinstance(grid, OwnGrid) and (summed := self._sum()) is not None:
            self.aggregate_train(server_round, grid.send_and_fold(messages, summed), summed)
        else:
            replies = grid.send_and_receive(messages, timeout=self.settings.timeout_s)
            self.aggregate_train(server_round, replies)

    def _sum(self) -> Sum | None:
        """An empty sum for the updates of this round; None where they are needed one by one."""
        averages = type(self.method).absorb is Averaging.absorb and self.method.plan.robust == "none"
        if not averages or not self.arrivals.waits_for_all:
            return None
        if any(t.state is None or not t.upload or t.reselect or t.search for t in self._tasks.values()):
            return None
        like = {name: torch.empty_like(value, device="meta") for name, value in self.method.model.items()}
        tasks = {device: replace(task, state=None) for device, task in self._tasks.items()}
        return Sum(self.settings, self._classes, tasks, self.method.axes, like)

    @property
    def _classes(self) -> int:
        return self.method.cloud.dense.sizes.get("classes", 0)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Deliver to the devices that are scored what the method would give them for use now."""
        return self._deliver(self._ask(grid, self._panel, server_round, 2), server_round)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep the devices' scores; Flower sees their means."""
        self.scores = self._scores(replies)
        if not self.scores:
            return None
        return MetricRecord(
            {f"accuracy-{m}": float(np.mean([getattr(s, m)[0] for s in self.scores])) for m in MEASURES}
        )

    def evaluate(self, server_round: int, grid: Grid) -> None:
        """The two verbs above for `AT_ONCE` devices after the other, so that memory does not grow with their number."""
        profiles, self.scores = self._ask(grid, self._panel, server_round, 2), []
        for at in range(0, len(profiles), AT_ONCE):
            messages = self._deliver(profiles[at : at + AT_ONCE], server_round)
            self.scores += self._scores(grid.send_and_receive(messages, timeout=self.settings.timeout_s))

    @cached_property
    def _panel(self) -> Sequence[int]:
        """The devices that are scored, the same ones throughout."""
        every, some = range(self.settings.devices), self.settings.eval_devices
        if not some:
            return every
        drawn = rng(self.method.seed, Purpose.COHORT, 0).choice(len(every), some, replace=False)  # no round is 0
        return sorted(int(device) for device in drawn)

    def _deliver(self, profiles: Sequence[Profile], server_round: int) -> list[Message]:
        self._tasks = self.method.deliver(profiles)
        if not self.ends_step(server_round):  # a look in between must not change what devices hold
            self._tasks = {d: replace(task, keep=False) if task.keep else task for d, task in self._tasks.items()}
        return self._messages(self._tasks, server_round, "evaluate", 3)

    def _scores(self, replies: Iterable[Message]) -> list[DeviceScore]:
        scores = []
        for device, content in self._good(replies, self._sent):
            try:
                scores.append(self._score(device, wire.metrics(content)))
            except Exception as error:  # whatever a device says, it must not end the run
                self._complain(f"score of device {device} refused: {error}")
        return scores

    def summary(self) -> None:
        log(INFO, "%s: %d devices, %d a round", self.name, self.settings.devices, self.settings.cohort)

    # the wire

    def step(self, server_round: int) -> int:
        """The step of the world in a round: 0 in the first ``rounds_per_step`` rounds."""
        return (server_round - 1) // self.settings.rounds_per_step

    def ends_step(self, server_round: int) -> bool:
        """Whether the world moves on after a round, or the run ends."""
        return server_round % self.settings.rounds_per_step == 0 or server_round == self.settings.rounds

    def _ask(self, grid: Grid, devices: Iterable[int], server_round: int, phase: int) -> list[Profile]:
        """Profiles of the devices that answer; one that told its profile at this step is not asked again.

        A method that asks once is content with the profile of any step.
        """
        if self.method.asks == "nothing":
            return [Profile(device) for device in devices]
        step = self.step(server_round)
        devices = list(devices)

        def known(device: int) -> bool:
            told = self._profiles.get(device)
            return told is not None and (told[0] == step or self.method.asks_once)

        stale = [d for d in devices if not known(d)]
        messages, sent = [], {}
        for device in stale:
            content = RecordDict({wire.TASK: self._task_record(device, server_round, phase, what=self.method.asks)})
            if self.method.asks == "importance" and device not in self._equipped:
                content[wire.SELECTOR] = self._selector
            byte_count = wire.size(content)
            self.ledger.bytes_down += byte_count
            self._spend_own(device, link_seconds(self.hardware[device], byte_count))
            messages.append(Message(content, self.fleet.node(device), "query", group_id=str(server_round)))
            sent[device] = messages[-1].metadata
        answered = set()
        for device, content in self._good(grid.send_and_receive(messages, timeout=self.settings.timeout_s), sent):
            byte_count = wire.size(content)
            self.ledger.bytes_up += byte_count
            self._spend_own(device, link_seconds(self.hardware[device], byte_count))
            try:
                told = wire.metrics(content)
                profile = self._profile(device, told)
                self._trial(device, told)
            except Exception as error:  # whatever a device says, it must not end the run
                self._complain(f"profile of device {device} refused: {error}")
                continue
            self._profiles[device] = step, profile
            answered.add(device)
        # A device that did not answer may have lost the selector: it is sent along next time.
        self._equipped = (self._equipped | answered) - (set(stale) - answered)
        return [self._profiles[d][1] for d in devices if known(d)]

    @cached_property
    def _selector(self) -> ArrayRecord:
        return wire.pack(fetched(self.method.modular_model.selector))

    def _profile(self, device: int, told: MetricRecord) -> Profile:
        """A profile from a device's answer.

        Raises:
            ValueError: it does not make sense.
        """
        whole = self.method.cloud.dense_costs.whole  # shares are of the large cloud model
        spare = np.array([told["link"], told["compute"], told["memory"]], dtype=float)
        if not ((spare >= 0) & (spare <= ABSURD)).all():
            raise ValueError(f"limits {spare.tolist()} are not shares of the large model, 0 to {ABSURD:g}")
        limits = Limits.shares(whole, *spare)
        if self.method.asks != "importance":
            return Profile(device, limits)
        importance, modules = {}, {layer: len(columns) for layer, columns in self._columns(FULL).items()}
        for layer, wanted in modules.items():
            values = np.asarray(told[f"importance.{layer}"], dtype=float)
            if (
                values.shape != (wanted,)
                or not np.isfinite(values).all()
                or (values < 0).any()
                or abs(values.sum() - 1) > 1e-3
            ):
                raise ValueError(f"importance of {layer} is not a distribution over {wanted} modules")
            if self.method.modular_model.routing.core:
                values[0] = values.max()  # every sub-model holds it, whatever noise or a liar says
            importance[layer] = values
        held = {}
        if any(name.startswith("held.") for name in told):
            for layer, known in modules.items():
                values = np.asarray(told[f"held.{layer}"], dtype=int)
                if not len(values) or not np.isin(values, np.arange(known)).all() or (np.diff(values) <= 0).any():
                    raise ValueError(f"modules held of {layer} are not rising numbers below {known}: {values}")
                held[layer] = values
        return Profile(device, limits, importance, held or None)

    def _trial(self, device: int, told: MetricRecord) -> None:
        """Account for the training by which a device found out whether it needs the cloud.

        Raises:
            ValueError: what it claims is no amount of work.
        """
        if "macs" not in told:
            return
        whole = self.method.cloud.modular_costs.whole
        macs = self._claimed_macs(told, BACKWARD * self.settings.adapt_epochs * whole.macs)
        self.ledger.train_macs += macs
        self._spend_own(device, macs / self.hardware[device].mac_per_s)

    def _claimed_macs(self, told: MetricRecord, most: float) -> float:
        """The multiply-accumulates that a device says a trial took, at most so many for each of its samples.

        Raises:
            ValueError, KeyError, TypeError: it is no such number.
        """
        macs, most = float(told["macs"]), most * self.settings.samples_max  # type: ignore[arg-type]
        if not 0 <= macs <= most:
            raise ValueError(f"{macs:g} MACs of a trial, {most:g} are the most")
        return macs

    def _cost(self, task: Task, told: MetricRecord) -> Cost:
        """What a task cost a device, which may have chosen by itself how many modules it activates, or a path.

        Raises:
            ValueError, KeyError, TypeError: the choice does not make sense.
        """
        if not task.reselect and not task.search:
            return task.cost
        costs = self.method.cloud.costs[task.architecture]
        held = covered_sizes(costs.architecture.sizes, task.coverage)
        active = {axis: int(told[f"active.{axis}"]) for axis in (*costs.layers, *costs.bypass)}  # type: ignore[arg-type]
        for axis, n in active.items():
            if not 0 <= n <= held[axis]:
                raise ValueError(f"activates {n} modules of {axis}, holds {held[axis]}")
        for layer in costs.layers:
            if active[layer] + active.get(bypass_axis(layer), 0) == 0:
                raise ValueError(f"activates no module of {layer}")
        return costs.of(active)

    def _score(self, device: int, told: MetricRecord) -> DeviceScore:
        """A score from a device's answer.

        Raises:
            ValueError, KeyError, TypeError: it does not make sense.
        """
        task, cloud = self._tasks[device], self.method.cloud
        whole = (cloud.modular_costs if task.architecture == "modular" else cloud.dense_costs).whole
        delivered, adapted = np.array([told["delivered"], told["adapted"]], dtype=float)
        for accuracy, balanced, loss in (delivered, adapted):
            if not (0 <= accuracy <= 1 and 0 <= balanced <= 1 and 0 <= loss < math.inf):
                raise ValueError(f"accuracy {accuracy}, balanced accuracy {balanced}, loss {loss}")
        cost, hardware = self._cost(task, told), self.hardware[device]
        samples, examples = int(told["num-examples"]), int(told["examples"])  # type: ignore[arg-type]
        if samples < 0 or not 0 <= examples <= self.settings.samples_max:
            raise ValueError(f"{samples} and {examples} examples, a device holds at most {self.settings.samples_max}")
        self._examples[device] = examples
        former = None
        if "former" in told:
            former = dict(zip(MEASURES, np.array(told["former"], dtype=float).tolist(), strict=True))
            if not all(0 <= accuracy <= 1 for accuracy in former.values()):
                raise ValueError(f"former accuracy {former}")
        trial_macs = self._claimed_macs(told, TRIALS * whole.macs) if task.search else 0.0
        deliver_bytes = self._down[device] if task.state is not None else 0
        ready = self._own.get(device, 0.0) + link_seconds(hardware, deliver_bytes) + trial_macs / hardware.mac_per_s
        return DeviceScore(
            device,
            samples,
            tuple(delivered.tolist()),
            tuple(adapted.tolist()),
            deliver_bytes,
            cost.params / whole.params,
            cost.macs,
            cost.memory,
            {"delivered": ready, "adapted": ready + train_seconds(hardware, cost.macs, examples, task.epochs)},
            former,
            {which: wire.measures(told, which, self._known_measures) for which in MEASURES},
        )

    def _task_record(
        self, device: int, server_round: int, phase: int, task: Task | None = None, what: str | None = None
    ) -> ConfigRecord:
        """The plain values of a message, which is the ``phase``-th of its round to that device, see `fl.workloads.state_store`."""
        step = self.step(server_round)
        values: dict[str, object] = {
            "run": self.run,
            "moment": MOMENTS * server_round + phase,
            "method": self.name,
            "device": device,
            "seed": self.method.seed,
            "round": server_round,
            "step": step,
            "what": what,
            "look-back": (self.settings.measure_forgetting and self.ends_step(server_round) and step > 0) or None,
        }
        if task is not None:
            values |= {"architecture": task.architecture, "epochs": task.epochs, "upload": task.upload}
            values["shares"] = list(self.method.cloud.shares) if task.masked == "prior" else None
            values |= {"masked": task.masked, "rate": task.rate, "keep": task.keep, "reselect": task.reselect or None}
            values |= {"rates": list(task.rates) or None, "blend": task.blend, "search": task.search or None}
            cloud = self.method.cloud
            parts = sub_sizes(cloud.architectures[task.architecture], task.coverage)
            values |= {f"size.{axis}": n for axis, n in parts.items()}
            if task.architecture == "modular":
                values |= {f"held.{layer}": kept.tolist() for layer, kept in self._columns(task.coverage).items()}
        return wire.task_record(values)

    def _messages(self, tasks: Mapping[int, Task], server_round: int, kind: str, phase: int) -> list[Message]:
        packed: dict[int, ArrayRecord] = {}  # devices that are sent the same object share its packing
        told: dict[int, tuple[RecordDict, int]] = {}  # and those with the same task its content, but for their number
        self._down, self._sent = {}, {}
        messages, work = [], []
        for device, task in sorted(tasks.items()):
            if id(task) not in told:
                shared = RecordDict({wire.TASK: self._task_record(device, server_round, phase, task)})
                if task.state is not None:
                    if id(task.state) not in packed:
                        packed[id(task.state)] = wire.pack(task.state)
                    shared[wire.MODEL] = packed[id(task.state)]
                told[id(task)] = shared, wire.size(shared)
            shared, self._down[device] = told[id(task)]
            content = shared.copy()
            content[wire.TASK] = record = shared[wire.TASK].copy()
            record["device"] = device  # type: ignore[assignment]
            messages.append(Message(content, self.fleet.node(device), kind, group_id=str(server_round)))
            self._sent[device] = messages[-1].metadata
            work.append(task.cost.macs * task.epochs * self._examples.get(device, self.settings.samples_max))
        order = sorted(range(len(work)), key=lambda i: -work[i])  # what takes longest first: workers finish together
        return [messages[i] for i in order]

    def _complain(self, why: str) -> None:
        self.complaint = why
        log(WARNING, "%s", why)

    def _good(self, replies: Iterable[Message], sent: Mapping[int, Metadata]) -> list[tuple[int, RecordDict]]:
        """(device, content) of the answers to the messages ``sent``, each once, in the order of device numbers."""
        asked = {metadata.message_id: device for device, metadata in sent.items()}
        out: dict[int, RecordDict] = {}
        for reply in replies:
            device = asked.get(reply.metadata.reply_to_message_id)
            if reply.has_error():
                self._complain(f"device {device} failed: {wire.last_words(reply.error)}")
            elif (why := self._stray(reply, device, out)) is not None:
                self.ledger.refused_answers += 1
                self._complain(f"an answer of node {reply.metadata.src_node_id} refused: {why}")
            else:
                assert device is not None
                out[device] = reply.content
        for device in [d for d, content in out.items() if "lost" in wire.metrics(content)]:
            log(WARNING, "device %d no longer holds what it was to go on from: it is sent anew", device)
            self.method.lost(device)
            self._equipped.discard(device)
            self._profiles.pop(device, None)
            del out[device]
        return sorted(out.items())

    def _stray(self, reply: Message, device: int | None, answered: Container[int]) -> str | None:
        """Why an answer is not one of ``device``, to whom the message was that it answers; None if it is."""
        if device is None:
            return "no message is open that it answers: it is of another round, or was never asked for"
        if device in answered:
            return f"device {device} has answered already"
        if reply.metadata.src_node_id != self.fleet.node(device):
            return f"device {device} is at node {self.fleet.node(device)}"
        try:
            claimed = wire.metrics(reply.content)["device"]
        except Exception as error:  # whatever a device sends, it must not end the run
            return f"device {device} does not say who it is ({type(error).__name__}: {error})"
        return None if claimed == device else f"device {device} speaks for device {claimed}"

    def _spend_own(self, device: int, seconds: float) -> None:
        self._spend(device, seconds)
        self._own[device] = self._own.get(device, 0.0) + seconds

    def _spend(self, device: int, seconds: float) -> None:
        self._spent[device] = self._spent.get(device, 0.0) + seconds
