"""Split training over Flower messages: the device's half in its process, the cloud's half in the ServerApp.

A training message of the whole model becomes a conversation, and its last reply what a device that trains both halves
by itself would have sent: methods, ledger and results notice nothing. Per step and device:

    down  gradient of the batch before, "send the next"      up  codes of the next batch; at the end the trained half
    down  logits                                             up  gradient of the logits

The devices of a cohort take their steps side by side, each with a replica of the cloud's half. What a device is given
for use is not split: it is scored in simulation, through the same codec.
"""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fl import workloads
from fl.config.settings import Settings, SettingsError
from fl.engines.proxy import Relay, exchange
from fl.messages import records as wire
from fl.workloads.workload import Order, Replica, SplitWorkload

ADDRESS = ("device", "seed", "round", "step", "epochs")
REFUSED = 2  # Flower's error code of an exception


@dataclass
class Talk:
    """A conversation: the message that it stands for, the cloud's side, and what goes down next."""

    message: Message
    replica: Replica
    content: RecordDict


def _is_split(message: Message) -> bool:
    """Whether a message asks to train a model that was sent and goes back; what a device trains for itself does not."""
    task: Mapping[str, object] = message.content.get(wire.TASK, {})
    return message.metadata.message_type == "train" and wire.MODEL in message.content and bool(task.get("upload", True))


class SplitGrid(Relay):
    """A grid whose training messages are conversations; all others pass.

    Args:
        inner: carries every message.

    Raises:
        SettingsError: the workload has no cut.
    """

    def __init__(self, inner: Grid, settings: Settings):
        workload = workloads.find(settings.workload)
        if not isinstance(workload, SplitWorkload):
            raise SettingsError(f"workload = '{settings.workload}' has no cut: use split = 'simulated'")
        super().__init__(inner)
        self.settings, self.workload = settings, workload

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies to all messages; ``timeout`` is that of each message sent, not of a conversation."""
        asked = list(messages)
        split = [m for m in asked if _is_split(m)]
        replies = list(self.inner.send_and_receive([m for m in asked if m not in split], timeout=timeout))
        talks = [self._open(message) for message in split]
        while talks:
            sent = [self._message(talk) for talk in talks]
            going = []
            for talk, answer in zip(talks, exchange(self.inner, sent, timeout, self.settings.at_once), strict=True):
                last = None if answer is None else self._answered(talk, answer)  # who is too late has lost its round
                if last is not None:
                    replies.append(last)
                elif answer is not None:
                    going.append(talk)
            talks = going
        return replies

    def _open(self, message: Message) -> Talk:
        task, model = message.content[wire.TASK], message.content[wire.MODEL]
        assert isinstance(task, ConfigRecord) and isinstance(model, ArrayRecord)
        message.metadata.__dict__["_message_id"] = uuid4().hex  # it is never pushed, but the last reply answers it
        device, seed, round_, step, epochs = (int(task[key]) for key in ADDRESS)  # type: ignore[arg-type]
        order = Order(device, seed, round_, step, epochs=epochs)
        replica = self.workload.replica(self.settings, order, wire.unpack(model))
        return Talk(
            message,
            replica,
            RecordDict({wire.TASK: ConfigRecord({**task, "steps": 0}), wire.MODEL: wire.pack(replica.for_device)}),
        )

    def _message(self, talk: Talk) -> Message:
        where = talk.message.metadata
        return Message(talk.content, where.dst_node_id, "train.split", group_id=where.group_id)

    def _answered(self, talk: Talk, answer: Message) -> Message | None:
        """The last reply of a conversation; None if the device has another turn."""
        if answer.has_error():
            return Message(answer.error, reply_to=talk.message)
        try:
            if wire.EDGE in answer.content:
                down = talk.replica.turn(dict(answer.content[wire.EDGE]))  # type: ignore[arg-type]
                task = ConfigRecord({**talk.content[wire.TASK], "steps": talk.replica.steps})  # type: ignore[dict-item]
                talk.content = RecordDict({wire.TASK: task, wire.EDGE: ConfigRecord(down)})  # type: ignore[arg-type]
                return None
            report, model = wire.metrics(answer.content), answer.content[wire.MODEL]
            more = talk.replica.measures(int(report["num-examples"]))  # type: ignore[arg-type]
            report.update({f"trained.{name}": value for name, value in more.items()})
            whole = wire.pack(talk.replica.whole(wire.unpack(model)))  # type: ignore[arg-type]
            return Message(RecordDict({wire.REPORT: report, wire.MODEL: whole}), reply_to=talk.message)
        except Exception:  # whatever a device sends, it must not end the run
            return Message(Error(REFUSED, traceback.format_exc(limit=-3)), reply_to=talk.message)
