"""Updates are validated and aggregated where the engine has them: in worker processes, or in the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message, RecordDict

from fl.messages import records
from fl.messages.codec import read_tensors
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
    """

    most_examples: int
    may_withhold: bool
    measures: frozenset[str]


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
    rules: Rules, aggregator: Aggregator, client: int, task: TrainTask, content: RecordDict
) -> ValidatedUpdate:
    """Decide whether an answer may touch the model; ``task`` has the parameters that were sent."""
    byte_count = records.size(content)
    try:
        report = records.metrics(content)
        if report.get("device") != client:
            return ValidatedUpdate(byte_count, why="answers for another client")
        if "lost" in report:  # the server does not count this client, so its update must not count either
            return ValidatedUpdate(byte_count, why="lost the state that it was to continue from")
        examples, loss = int(report["num-examples"]), float(report["loss"])  # type: ignore[arg-type]
        withheld = task.upload and rules.may_withhold and records.MODEL not in content
        uploads = task.upload and not withheld
        state = records.unpack(content[records.MODEL]) if uploads else {}  # type: ignore[arg-type]
        tensors = read_tensors(content) if uploads else {}
        why = records.fault(state, task.model.state) if uploads and task.model.state is not None else None
        if uploads and tensors.keys() != task.tensors.keys():
            why = why or f"has the tensors {sorted(tensors)} instead of {sorted(task.tensors)}"
        for name, sent in task.tensors.items() if uploads and not why else ():
            why = why or records.fault(tensors[name], sent)
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

    def add(self, message: Message, reply: Message) -> Message:
        """Validate an answer and take its update. Returns the answer without it.

        A second answer, and one from another node than was asked, stay untouched; `fl.server.replies` refuses them.
        """
        client = int(message.content[records.TASK]["device"])  # type: ignore[arg-type]
        stray = reply.metadata.src_node_id != message.metadata.dst_node_id
        if reply.has_error() or stray or client in self.updates:
            return reply
        record = message.content.get(records.MODEL)
        sent = None if record is None else records.shared(record)  # type: ignore[arg-type]
        task = self.tasks[client]
        whole = replace(task, model=replace(task.model, state=sent))
        found = validate_update(self.rules, self.method, client, whole, reply.content)
        if found.update is not None and not found.withheld:
            if self.measure and task.upload and sent is not None:
                self.divergence = self.divergence or Divergence(self.axes, self.like)
                self.divergence.add(found.update.state, sent, task.model.coverage)
            if self.at_once:
                self.method.add(task, found.update)
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
        if self.divergence is None:
            self.divergence = part.divergence
        elif part.divergence is not None:
            self.divergence.merge(part.divergence)
