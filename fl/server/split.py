"""Split training over Flower messages: the client's half in its process, the cloud's half in the ServerApp.

A training message of the whole model becomes a session, and its last reply is what a client that trains both halves
itself would have sent: methods, costs and results do not see the difference. Per step and client:

    down  gradient of the batch before, "send the next"      up  codes of the next batch; at the end the trained half
    down  logits                                             up  gradient of the logits

The clients of a cohort take their steps side by side, each with a replica of the cloud's half. Evaluation is not split:
models are scored in simulation, through the same codec.
"""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fl.config import SettingsError
from fl.engines.engine import FAILED, GridProxy
from fl.engines.proxy import exchange
from fl.messages import records
from fl.messages.codec import Address
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext, Replica, SplitWorkload, Workload


@dataclass
class SplitSession:
    """Split training of one client: the message that it replaces, the server's side, and what goes down next."""

    message: Message
    replica: Replica
    content: RecordDict


def _is_split(message: Message) -> bool:
    """Return whether a message asks to train a model that was sent and comes back."""
    task: Mapping[str, object] = message.content.get(records.TASK, {})
    sent = records.MODEL in message.content
    return message.metadata.message_type == "train" and sent and bool(task.get("upload", True))


class SplitGrid(GridProxy):
    """A grid whose training messages are split sessions; all others pass.

    Args:
        inner: carries every message; at_once: most messages under way at a time, 0: all.

    Raises:
        SettingsError: the workload has no cut.
    """

    def __init__(self, inner: Grid, workload: Workload, name: str, at_once: int = 0):
        if not isinstance(workload, SplitWorkload):
            raise SettingsError(f"workload = '{name}' has no cut: use split = 'simulated'")
        super().__init__(inner)
        self.workload, self.at_once = workload, at_once

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies to all messages; ``timeout`` is that of each message sent, not of a session."""
        asked = list(messages)
        split = [m for m in asked if _is_split(m)]
        replies = list(self.inner.send_and_receive([m for m in asked if m not in split], timeout=timeout))
        sessions = [self._open(message) for message in split]
        while sessions:
            sent = [self._message(session) for session in sessions]
            going = []
            for session, answer in zip(sessions, exchange(self.inner, sent, timeout, self.at_once), strict=True):
                last = None if answer is None else self._answered(session, answer)  # a late client loses its round
                if last is not None:
                    replies.append(last)
                elif answer is not None:
                    going.append(session)
            sessions = going
        return replies

    def _open(self, message: Message) -> SplitSession:
        task, model = message.content[records.TASK], message.content[records.MODEL]
        assert isinstance(task, ConfigRecord) and isinstance(model, ArrayRecord)
        message.metadata.__dict__["_message_id"] = uuid4().hex  # it is never pushed, but the last reply answers it
        a = Address.of(task)
        context = ClientContext(a.client, a.seed, a.round, a.step, ClientStateStore(Path()))
        replica = self.workload.replica(context, int(task["epochs"]), records.unpack(model))  # type: ignore[arg-type]
        content: dict[str, Any] = {
            records.TASK: ConfigRecord({**task, "steps": 0}), records.MODEL: records.pack(replica.for_client),
        }  # fmt: skip
        return SplitSession(message, replica, RecordDict(content))

    def _message(self, session: SplitSession) -> Message:
        where = session.message.metadata
        return Message(session.content, where.dst_node_id, "train.split", group_id=where.group_id)

    def _answered(self, session: SplitSession, answer: Message) -> Message | None:
        """Return the last reply of a session; None if the client has another turn."""
        if answer.has_error():
            return Message(answer.error, reply_to=session.message)
        try:
            if records.EDGE in answer.content:
                down = session.replica.turn(dict(answer.content[records.EDGE]))  # type: ignore[arg-type]
                task = ConfigRecord({**session.content[records.TASK], "steps": session.replica.steps})  # type: ignore[dict-item]
                session.content = RecordDict({records.TASK: task, records.EDGE: ConfigRecord(down)})  # type: ignore[arg-type]
                return None
            report, model = records.metrics(answer.content), answer.content[records.MODEL]
            more = session.replica.measures(int(report["num-examples"]))  # type: ignore[arg-type]
            report.update({f"trained.{name}": value for name, value in more.items()})
            whole = records.pack(session.replica.whole(records.unpack(model)))  # type: ignore[arg-type]
            return Message(RecordDict({records.REPORT: report, records.MODEL: whole}), reply_to=session.message)
        except Exception:  # no answer may end the run
            return Message(Error(FAILED, traceback.format_exc(limit=-3)), reply_to=session.message)
