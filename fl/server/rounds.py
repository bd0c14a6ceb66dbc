"""Rounds of one method: query, train, aggregate, evaluate. The same on every engine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from logging import WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log
from torch import Tensor

from fl.devices.clock import link_seconds, train_seconds
from fl.devices.hardware import HardwareMap, Table
from fl.engines.engine import Engine
from fl.messages import records
from fl.messages.codec import Address, task_values, tensor_records
from fl.server.aggregation import RoundAggregator, Rules, ValidatedUpdate
from fl.server.arrivals import Arrival, Arrivals, rebase
from fl.server.costs import Clocks, RoundCosts, weighted
from fl.server.fleet import Fleet
from fl.server.measures import Divergence, load_cv
from fl.server.profiles import Profiles
from fl.server.replies import Replies
from fl.server.scores import ClientScore, read_score
from fl.workloads.resolve import Run
from fl.workloads.state_store import MOMENTS
from models.costs import BACKWARD
from models.nn.blocks import never_negative
from models.nn.body import gate_columns
from models.submodel import FULL, Coverage, axis_names
from partitions import Purpose, rng
from strategies.core.client import Limits
from strategies.core.strategy import Profile, Strategy, TrainTask, Update

AT_ONCE = 64  # clients that are delivered their models at the same time
QUERY, TRAIN, EVALUATE_QUERY, EVALUATE = range(MOMENTS)  # the messages that a client may get in a round
UNLIMITED = (
    "%s: nothing limits %d of the %d devices of round 1, so what they are sent may be larger than FedAvg's model; "
    "devices.link-budget-s, devices.train-budget-s or `deploy supernode --limit-link 0.5` limit a device"
)


@dataclass
class Timetable:
    """Which step a round belongs to, and when clients are scored."""

    rounds: int
    rounds_per_step: int
    every: int

    def step(self, server_round: int) -> int:
        """Return the step of the world in a round: 0 in the first ``rounds_per_step`` rounds."""
        return (server_round - 1) // self.rounds_per_step

    def ends_step(self, server_round: int) -> bool:
        """Return whether data may drift after a round, or the run ends."""
        return server_round % self.rounds_per_step == 0 or server_round == self.rounds

    def evaluates(self, server_round: int) -> bool:
        """Return whether clients are scored after a round."""
        return self.ends_step(server_round) or server_round % self.every == 0


class Rounds:
    """The server's side of one method and seed.

    Args:
        run: the resolved run-config; name: of the method; method: its server half.
        fleet: which node answers for which client; run_name: by which clients tell their files apart.

    Attributes:
        most_examples: training samples that a client has at most.
        costs: of the last round; scores: of the last evaluation.
    """

    def __init__(self, run: Run, name: str, method: Strategy, fleet: Fleet, run_name: str):
        settings = run.settings
        self.run, self.settings, self.name, self.method = run, settings, name, method
        self.fleet, self.run_name = fleet, run_name
        self.schedule = Timetable(settings.rounds, settings.rounds_per_step, settings.eval.every)
        self.hardware = HardwareMap(Table.of(settings.devices.hardware), method.seed, fleet.hardware)
        self.clocks = Clocks(self.hardware)
        self.most_examples = run.worlds.most_samples(method.seed)
        self.profiles = Profiles(method, self.most_examples, settings.server.timeout_s, self.clocks)
        self.replies = Replies(fleet)
        buffered = settings.server.aggregation == "buffered"
        self.arrivals = Arrivals(settings.server.buffer if buffered else None, settings.server.deadline_s or math.inf)
        self.examples: dict[int, int] = {}  # training samples that each client last reported
        self.scores: list[ClientScore] = []
        self.cohort = 0  # clients of the last round

    @property
    def costs(self) -> RoundCosts:
        """Costs of the current round."""
        return self.replies.costs

    @property
    def all_failed(self) -> bool:
        """Whether each of two or more clients answered the last round's messages with an error."""
        return 1 < self.cohort == len(self.replies.failed)

    @property
    def complaint(self) -> str:
        """Why the last useless reply was of no use."""
        return self.replies.complaint

    def state_dict(self) -> dict[str, Any]:
        """Return what must outlive a round: the method's memory, and what clients reported, have and are at."""
        return {
            "method": self.method.state_dict(),
            "profiles": self.profiles.known,
            "equipped": self.profiles.equipped,
            "own": self.clocks.step,
            "examples": self.examples,
            "now": self.arrivals.now,
            "version": self.arrivals.version,
            "under way": self.arrivals.under_way,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, in a new process."""
        self.method.load_state_dict(state["method"])
        self.profiles.known, self.profiles.equipped = state["profiles"], state["equipped"]
        self.clocks.step, self.examples = state["own"], state["examples"]
        self.arrivals.now, self.arrivals.version = state["now"], state["version"]
        self.arrivals.under_way = state["under way"]

    # training

    def rest(self, server_round: int) -> None:
        """Begin a round. Alone it is a round in which no client trains."""
        self.replies.costs, self.replies.failed, self.clocks.round, self.cohort = RoundCosts(), set(), {}, 0
        if self.method.budget.starts_step(server_round):
            self.clocks.step = {}
            if not self.method.asks_once:
                self.profiles.known = {}  # of a step that is over

    def train(self, server_round: int, engine: Engine) -> None:
        """Query the cohort, let it train, and aggregate what is valid and arrives in time."""
        self.rest(server_round)
        generator = rng(self.method.seed, Purpose.COHORT, server_round, 1)
        chosen = self.method.online(np.array(self.method.sample_clients(server_round), np.int64), server_round)
        cohort = self.arrivals.free(chosen.tolist(), generator)
        self.cohort = len(cohort)
        asked = self._ask(engine, cohort, server_round, QUERY)
        self.costs.failures += len(cohort) - len(asked)
        if server_round == 1 and self.settings.devices.placement == "own":
            self._warn_if_unlimited(asked)
        tasks = self.method.configure_train(server_round, asked)
        messages, down = self._messages(tasks, server_round, "train", TRAIN)
        for client, byte_count in down.items():
            self.costs.bytes_down += byte_count
            self.clocks.spend(client, self.clocks.link(client, byte_count))
        for client in (gone := self._dropouts(tasks, server_round)):
            self.replies.sent.pop(client, None)
        messages = [message for message in messages if message.content[records.TASK]["device"] not in gone]
        aggregator = self._aggregator(tasks)
        replies = engine.aggregate(messages, aggregator, timeout=self.settings.server.timeout_s)
        updates = self._accept(replies, tasks, aggregator, down)
        self._measure(tasks, updates, aggregator.divergence)
        self._aggregate(server_round, tasks, updates, aggregator)

    def _dropouts(self, tasks: Mapping[int, TrainTask], server_round: int) -> set[int]:
        """Return the clients that go offline before they send their update."""
        share = self.settings.devices.dropout
        uploads = [client for client, task in tasks.items() if task.upload] if share else []
        address = self.method.seed, Purpose.AVAILABILITY, server_round
        return {client for client in uploads if rng(*address, client).random() < share}

    def _warn_if_unlimited(self, profiles: Sequence[Profile]) -> None:
        """Warn of devices that can take more than the large model: what they are sent may be larger than FedAvg's."""
        whole = Limits.shares(self.method.models.costs["dense"].whole, 1, 1, 1).vector
        free = [p.client for p in profiles if p.limits is not None and (p.limits.vector >= whole).all()]
        if free:
            log(WARNING, UNLIMITED, self.name, len(free), len(profiles))

    def _aggregator(self, tasks: Mapping[int, TrainTask]) -> RoundAggregator:
        """Return an empty aggregator for the updates of a round."""
        method, settings = self.method.aggregator(), self.settings
        never_negative = self._never_negative if not settings.client.update_noise else frozenset[str]()
        withholds = settings.client.upload_change > 0
        rules = Rules(self.most_examples, withholds, self._known_measures, never_negative)
        at_once = method.in_workers and self.arrivals.waits_for_all and all(t.upload for t in tasks.values())
        like = {name: torch.empty_like(value, device="meta") for name, value in self.method.model.items()}
        bare = {client: task.without_state() for client, task in tasks.items()}
        return RoundAggregator(rules, bare, method, self.method.axes, like, at_once, settings.eval.divergence)

    def _accept(
        self, replies: Sequence[Message], tasks: Mapping[int, TrainTask], aggregator: RoundAggregator,
        down: Mapping[int, int],
    ) -> dict[int, Update]:  # fmt: skip
        """Return the valid updates by client, and account for all answers."""
        updates: dict[int, Update] = {}
        measured = []
        for client, content in self._read(replies):
            task, twice = tasks[client], ValidatedUpdate(0, why="its first answer failed")
            found = aggregator.updates.get(client, twice)
            self.costs.bytes_up += found.byte_count
            update, why = found.update, found.why
            try:
                cost = self.method.cost(task, records.metrics(content))
            except Exception as error:  # no answer may end the run
                why = why or f"{type(error).__name__}: {error}"
            if update is None or why:
                self.costs.refused += 1
                self.replies.complain(f"update of client {client} refused: {why}")
                continue
            self.costs.clients += 1
            self.costs.withheld += found.withheld
            if not found.withheld:
                updates[client] = update
            measured.append((update.examples, found.measures))
            hardware, examples = self.hardware[client], update.examples
            self.examples[client] = examples
            work = train_seconds(hardware, cost.macs, examples, task.epochs)
            work += link_seconds(hardware, found.byte_count)
            self.clocks.spend(client, work)
            if task.keep and not task.upload:
                own = self.clocks.step.get(client, 0.0) + link_seconds(hardware, down[client]) + work
                self.clocks.step[client] = own
            self.costs.train_macs += BACKWARD * cost.macs * examples * task.epochs
            self.costs.memory_bytes = max(self.costs.memory_bytes, cost.memory)
        self.costs.measures = weighted(measured)
        self.costs.failures += len(tasks) - self.costs.clients - self.costs.refused
        return updates

    def _aggregate(
        self, server_round: int, tasks: Mapping[int, TrainTask], updates: Mapping[int, Update],
        aggregator: RoundAggregator,
    ) -> None:  # fmt: skip
        """Let the method aggregate what has arrived; late updates count as updates of the present model."""
        kept: list[Arrival] = []  # models that clients keep: the server does not wait for them
        for client, update in updates.items():
            arrival = self.arrivals.expect(self.clocks.round[client], update, tasks[client])
            (self.arrivals.under_way if arrival.task.upload else kept).append(arrival)
        arrived, self.costs.late, self.costs.seconds = self.arrivals.merge(self.clocks.round.values())
        ordered = sorted([*kept, *arrived], key=lambda arrival: arrival.update.client)
        if aggregator.broken:  # a part of an update may be in the sum, and cannot be taken out
            self.costs.refused += len(ordered)
            self.replies.complain(f"updates of the round refused: the aggregator raised {aggregator.broken}")
            return
        if not aggregator.at_once:
            ordered = self._add(ordered, aggregator)
        if ordered:
            self.method.server_update(server_round, aggregator.method)
            self.arrivals.version += 1

    def _add(self, arrivals: list[Arrival], aggregator: RoundAggregator) -> list[Arrival]:
        """Add updates one by one; return those that the method accepts. No part of the others stays."""
        left, at = list(arrivals), 0
        while at < len(left):
            task, update, age = left[at].task, left[at].update, self.arrivals.version - left[at].version
            try:
                aggregator.method.add(task, rebase(self.method, task, update, age, self._never_negative))
                at += 1
            except Exception as error:  # no update may end the run
                self.costs.refused += 1
                self.replies.complain(f"update of client {update.client} refused: {type(error).__name__}: {error}")
                del left[at]
                aggregator.method, at = self.method.aggregator(), 0
        return left

    def _measure(
        self, tasks: Mapping[int, TrainTask], updates: Mapping[int, Update], divergence: Divergence | None
    ) -> None:
        """Measure how the updates disagree, and how evenly they train the modules."""
        costs = self.method.models.costs.get("modular")
        if divergence is not None:
            self.costs.divergence, self.costs.variance = divergence.values(self._parameters)
            modules = {*costs.layers, *costs.bypass} if costs else set()
            cut = [name for name in self._parameters if modules & axis_names(self.method.axes[name])]
            self.costs.module_divergence, self.costs.module_variance = divergence.values(cut)
        if updates and self.method.architecture == "modular":
            columns = [self._columns(tasks[client].model.coverage) for client in updates]
            self.costs.load_cv = load_cv(columns, {layer: len(every) for layer, every in self._columns(FULL).items()})

    # evaluation

    def evaluate(self, server_round: int, engine: Engine) -> None:
        """Score clients with the models that the method gives them now, `AT_ONCE` of them at a time."""
        profiles, self.scores = self._ask(engine, self._panel, server_round, EVALUATE_QUERY), []
        for at in range(0, len(profiles), AT_ONCE):
            tasks = self.method.configure_evaluate(profiles[at : at + AT_ONCE])
            self.costs.unserved += len(profiles[at : at + AT_ONCE]) - len(tasks)
            if not self.schedule.ends_step(server_round):  # scoring within a step must not change what clients keep
                tasks = {c: replace(task, keep=False) if task.keep else task for c, task in tasks.items()}
            messages, down = self._messages(tasks, server_round, "evaluate", EVALUATE)
            for client, content in self._read(
                engine.send_and_receive(messages, timeout=self.settings.server.timeout_s)
            ):
                try:
                    score, self.examples[client] = read_score(
                        self.method, client, tasks[client], records.metrics(content), down[client], self.clocks,
                        self.most_examples, self._known_measures,
                    )  # fmt: skip
                    self.scores.append(score)
                except Exception as error:  # no answer may end the run
                    self.replies.complain(f"score of client {client} refused: {error}")

    @cached_property
    def _panel(self) -> Sequence[int]:
        """The clients that are scored, the same ones throughout."""
        every, some = range(self.settings.devices.count), self.settings.eval.devices
        if not some:
            return every
        drawn = rng(self.method.seed, Purpose.COHORT, 0).choice(len(every), some, replace=False)  # no round is 0
        return sorted(int(client) for client in drawn)

    # messages

    def _address(self, client: int, server_round: int, moment: int, what: str | None = None) -> Address:
        step, looks_back = self.schedule.step(server_round), self.settings.eval.forgetting
        return Address(
            self.run_name, MOMENTS * server_round + moment, self.name, client, self.method.seed, server_round, step,
            what, looks_back and self.schedule.ends_step(server_round) and step > 0,
        )  # fmt: skip

    def _ask(self, engine: Engine, clients: Sequence[int], server_round: int, moment: int) -> list[Profile]:
        what = self.method.asks
        return self.profiles.ask(
            engine, clients, lambda client: self._address(client, server_round, moment, what), self.replies
        )

    def _messages(
        self, tasks: Mapping[int, TrainTask], server_round: int, kind: str, moment: int
    ) -> tuple[list[Message], dict[int, int]]:
        """Return a message for each task, the longest work first, and the bytes of each client's message.

        Clients that are sent the same object share its packing, and those with the same task all but the address.
        """
        packed: dict[int, Any] = {}
        contents: dict[int, tuple[RecordDict, int]] = {}
        messages, work, down, sent = [], [], {}, {}

        def pack(state: Any) -> Any:
            if id(state) not in packed:
                packed[id(state)] = records.pack(state)
            return packed[id(state)]

        for client, task in sorted(tasks.items()):
            if (node := self.fleet.node(client)) is None:
                continue
            if id(task) not in contents:
                values = self._address(client, server_round, moment).values() | task_values(task, self.method.models)
                shared = RecordDict({records.TASK: ConfigRecord(values), **tensor_records(task.tensors, pack)})
                if task.model.state is not None:
                    shared[records.MODEL] = pack(task.model.state)
                contents[id(task)] = shared, records.size(shared)
            shared, down[client] = contents[id(task)]
            content = shared.copy()
            content[records.TASK] = record = shared[records.TASK].copy()
            record["device"] = client  # type: ignore[assignment]
            messages.append(Message(content, node, kind, group_id=str(server_round)))
            sent[client] = messages[-1].metadata
            work.append(task.cost.macs * task.epochs * self.examples.get(client, self.most_examples))
        self.replies.sent = sent
        order = sorted(range(len(work)), key=lambda i: -work[i])  # workers finish together
        return [messages[i] for i in order], down

    def _read(self, replies: Any) -> list[tuple[int, RecordDict]]:
        answers, lost = self.replies.read(replies)
        for client in lost:
            self.profiles.forget(client)
        return answers

    # what does not change in a run

    @cached_property
    def _known_measures(self) -> frozenset[str]:
        return frozenset(self.run.workload.measures)

    @cached_property
    def _never_negative(self) -> frozenset[str]:
        return never_negative(self.method.models.architectures[self.method.architecture].part(FULL))

    @cached_property
    def _parameters(self) -> list[str]:
        """Names of the trained entries of the method's model: all but the statistics."""
        architecture = self.method.models.architectures[self.method.architecture]
        return [name for name, p in architecture.part(FULL).named_parameters() if p.requires_grad]

    def _columns(self, coverage: Coverage) -> dict[str, Tensor]:
        """The modules of a modular (sub-)model by layer, numbered as in messages."""
        models = self.method.models
        sizes, layers = models.architectures["modular"].sizes, models.costs["modular"].layers
        return {layer: gate_columns(sizes, layer, coverage) for layer in layers}
