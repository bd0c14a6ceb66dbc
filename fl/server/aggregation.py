"""Updates are validated and aggregated where the engine has them: in worker processes, or in the server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from fl.messages import records
from fl.messages.codec import packed_tensors
from fl.server.measures import Divergence
from models.submodel import Axes, State
from strategies.core.strategy import Aggregator, TrainTask, Update


@dataclass(frozen=True)
class Rules:
    """What an update must obey.

    Args:
        most_examples: training samples that a client has at most; they are a weight, so no client may claim a million.
        may_withhold: whether a client may keep an update that changed too little.
        measures: names of what the workload measures.
        never_negative: names of entries of the model such as variances.
    """

    most_examples: int
    may_withhold: bool
    measures: frozenset[str]
    never_negative: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ValidatedUpdate:
    """What the server does with a client's answer.

    Args:
        byte_count: of the answer on the wire.
        update: to be aggregated; None if it is refused. Its parameters are gone if they were aggregated already.
        withheld: the client trained, but kept its update.
        why: the reason of a refusal, or empty.
        loss: of its training; measures: of the workload.
    """

    byte_count: int
    update: Update | None = None
    withheld: bool = False
    why: str = ""
    loss: float = 0.0
    measures: Mapping[str, float] = field(default_factory=dict)


def validate_update(
    rules: Rules, aggregator: Aggregator, client: int, task: TrainTask, content: RecordDict,
    most_bytes: float = math.inf,
) -> ValidatedUpdate:  # fmt: skip
    """Decide whether an answer may touch the model.

    Args:
        task: with the parameters that were sent; most_bytes: of the answer.
    """
    byte_count = records.size(content)
    if byte_count > most_bytes:
        return ValidatedUpdate(byte_count, why=f"has {byte_count} bytes, at most {most_bytes:.0f} fit its task")
    try:
        report = records.metrics(content)
        if report.get("device") != client:
            return ValidatedUpdate(byte_count, why="answers for another client")
        if "lost" in report:  # the server does not count this client, so its update must not count either
            return ValidatedUpdate(byte_count, why="lost the state that it was to continue from")
        examples, loss = int(report["num-examples"]), float(report["loss"])  # type: ignore[arg-type]
        withheld = task.upload and rules.may_withhold and records.MODEL not in content
        uploads = task.upload and not withheld
        state, tensors, why = _unpacked(rules, task, report, content) if uploads else ({}, {}, None)
        if not 0 < examples <= rules.most_examples:
            why = why or f"reports {examples} examples, a client has 1 to {rules.most_examples}"
        update = Update(client, state, examples, dict(report), tensors)
        if not why:
            aggregator.check(task, update)
        measures = records.measures(report, "trained", rules.measures)
    except Exception as error:  # no answer may end the run
        why = f"{type(error).__name__}: {error}"
    if why:
        return ValidatedUpdate(byte_count, why=why)
    return ValidatedUpdate(byte_count, update, withheld, loss=loss, measures=measures)


def _unpacked(
    rules: Rules, task: TrainTask, report: Mapping[str, Any], content: RecordDict
) -> tuple[State, dict[str, State], str | None]:
    """Return the parameters and further tensors of an update, and why they are not such as were sent."""
    sent, model, packed = task.start(report), content[records.MODEL], packed_tensors(content)
    expected = task.tensors if task.tensors_up else {}
    assert isinstance(model, ArrayRecord)
    why = None if sent is None else records.misfit(model, sent)
    if packed.keys() != expected.keys():
        why = why or f"has the tensors {sorted(packed)} instead of {sorted(expected)}"
    for name, value in expected.items():
        why = why or records.misfit(packed[name], value)
    if why:
        return {}, {}, why
    state, tensors = records.unpack(model), {name: records.unpack(record) for name, record in packed.items()}
    why = None if sent is None else records.fault(state, sent, rules.never_negative)
    for name, value in expected.items():
        why = why or records.fault(tensors[name], value)
    return state, tensors, why


@dataclass
class RoundAggregator:
    """Takes the updates out of a round's replies (`fl.engines.engine.Aggregator`).

    Args:
        rules: for updates; tasks: by client, without parameters, which are in the message.
        method: the method's aggregator, empty.
        axes, like: of the model.
        at_once: updates are aggregated as they come; otherwise they are collected, for the server to aggregate later.
        measure: also measure how far updates disagree.
        updates: validated answers by client; divergence: of the updates so far.
        broken: why ``method`` may hold a part of an update, or empty.
    """

    rules: Rules
    tasks: Mapping[int, TrainTask]
    method: Aggregator
    axes: Axes
    like: State
    at_once: bool
    measure: bool
    updates: dict[int, ValidatedUpdate] = field(default_factory=dict)
    divergence: Divergence | None = None
    broken: str = ""

    def add(self, message: Message, reply: Message) -> Message:
        """Validate an answer and take its update. Returns the answer without it.

        A second answer stays untouched; `fl.server.replies` refuses it.
        """
        client = int(message.content[records.TASK]["device"])  # type: ignore[arg-type]
        if client in self.updates:
            return reply
        record = message.content.get(records.MODEL)
        sent = None if record is None else records.shared(record)  # type: ignore[arg-type]
        task = self.tasks[client]
        whole = replace(task, model=replace(task.model, state=sent))
        most = records.size(message.content) + records.SPARE if sent is not None or not task.upload else math.inf
        found = validate_update(self.rules, self.method, client, whole, reply.content, most)
        if found.update is not None and not found.withheld:
            start = whole.start(found.update.report)
            if self.measure and task.upload and start is not None:
                self.divergence = self.divergence or Divergence(self.axes, self.like)
                self.divergence.add(found.update.state, start, task.model.coverage)
            if self.at_once:
                try:
                    self.method.add(task, found.update)
                except Exception as error:
                    self.broken = f"{type(error).__name__} for the update of client {client}: {error}"
                    raise
                found = replace(found, update=replace(found.update, state={}, tensors={}))
        self.updates[client] = found
        for key in [key for key in reply.content if key != records.REPORT]:
            reply.content.pop(key)
        return reply

    def part(self) -> "RoundAggregator":
        """Return what was collected so far, as small as it can be sent."""
        return replace(self, tasks={}, like={})

    def merge(self, part: Any) -> None:
        """Add what another process collected."""
        self.updates |= part.updates
        self.method.merge(part.method)
        self.broken = self.broken or part.broken
        if self.divergence is None:
            self.divergence = part.divergence
        elif part.divergence is not None:
            self.divergence.merge(part.divergence)
