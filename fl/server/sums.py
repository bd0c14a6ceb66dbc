"""Updates judged and added up where they are: then a round brings home one model per worker, not one per device."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flwr.app import Message, RecordDict

from fl.config.settings import Settings
from fl.messages import records as wire
from fl.server.measures import Divergence
from fl.workloads import find
from models.aggregation.weighted_sum import WeightedSum
from models.submodel import Axes, State
from strategies.base import Task, Update, count


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a device's answer to a task.

    Args:
        byte_count: of the answer on the wire.
        loss: of its training; measures: of the workload.
        update: to be merged; None where it is refused. Its state is empty where that was added up already.
        withheld: the device trained, but kept its update to itself.
        why: the answer is refused; empty if it is not.
    """

    byte_count: int
    loss: float = 0.0
    update: Update | None = None
    withheld: bool = False
    why: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)


def judge(settings: Settings, classes: int, device: int, task: Task, content: RecordDict) -> Verdict:
    """Whether an answer may touch the model.

    Args:
        classes: how many there are, 0 where the model has none; task: with the state that was sent.
    """
    byte_count = wire.size(content)
    try:
        report = wire.metrics(content)
        examples, loss = int(report["num-examples"]), float(report["loss"])  # type: ignore[arg-type]
        withheld = task.upload and settings.upload_change > 0 and wire.MODEL not in content
        uploads = task.upload and not withheld
        state = wire.unpack(content[wire.MODEL]) if uploads else {}  # type: ignore[arg-type]
        own = [int(c) for c in report["classes"]] if task.masked == "zero" else None  # type: ignore[union-attr]
        why = wire.fault(state, task.state) if uploads and task.state is not None else None
        if not 0 < examples <= settings.samples_max:  # examples are a weight: nobody may claim a million
            why = why or f"reports {examples} examples, a device holds 1 to {settings.samples_max}"
        if own is not None and not (own and set(own) <= set(range(classes))):
            why = why or f"reports classes {own}, there are 0 to {classes - 1}"
        measures = wire.measures(report, "trained", find(settings.workload).MEASURES)
    except Exception as error:  # whatever a device sends, it must not end the run
        why = f"{type(error).__name__}: {error}"
    if why:
        return Verdict(byte_count, why=why)
    return Verdict(byte_count, loss, Update(device, state, examples, own), withheld, measures=measures)


@dataclass
class Sum:
    """The sum of a round's updates; a `fl.engines.worker_server.Fold`.

    Args:
        tasks: by device, without the parameters, which are in the message.
        axes, like: of the model.
        verdicts: on the answers so far; total, divergence: of the updates among them.
    """

    settings: Settings
    classes: int
    tasks: Mapping[int, Task]
    axes: Axes
    like: State
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    total: WeightedSum | None = None
    divergence: Divergence | None = None

    def take(self, message: Message, reply: Message) -> Message:
        """Judge an answer and add its update. Returns the answer without the update."""
        if reply.has_error():
            return reply
        device = int(message.content[wire.TASK]["device"])  # type: ignore[arg-type]
        sent = wire.shared(message.content[wire.MODEL])  # type: ignore[arg-type]
        task = replace(self.tasks[device], state=sent)
        verdict = judge(self.settings, self.classes, device, task, reply.content)
        if not verdict.why and wire.metrics(reply.content).get("device") != device:
            verdict = Verdict(verdict.byte_count, why="answers for another device")
        if verdict.update is not None and not verdict.withheld:
            self.total = self.total or WeightedSum(self.axes, self.like)
            count(self.total, self.axes, task, verdict.update)
            if self.settings.measure_divergence:
                self.divergence = self.divergence or Divergence(self.axes, self.like)
                self.divergence.add(verdict.update.state, sent, task.coverage)
            verdict = replace(verdict, update=replace(verdict.update, state={}))
        self.verdicts[device] = verdict
        reply.content.pop(wire.MODEL, None)
        return reply

    def part(self) -> "Sum":
        """What was added up so far, as small as it can be sent."""
        return replace(self, tasks={})

    def merge(self, part: "Sum") -> None:
        """Add what another process added up."""
        self.verdicts |= part.verdicts
        for name in ("total", "divergence"):
            mine, other = getattr(self, name), getattr(part, name)
            if mine is None:
                setattr(self, name, other)
            elif other is not None:
                mine.merge(other)
