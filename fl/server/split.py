"""Split training over Flower messages: the client's half in its process, the cloud's half in the ServerApp.

A training message of the whole model becomes a session, and its last reply is what a client that trains both halves
itself would have sent: methods, costs and results do not see the difference. Per step and client:

    down  gradient of the batch before, "send the next"      up  codes of the next batch; at the end the trained half
    down  logits                                             up  gradient of the logits

The clients of a cohort do not wait for each other; each has a replica of the cloud's half. Evaluation is not split:
models are scored in simulation, through the same codec.
"""

import math
import time
import traceback
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fl.config import SettingsError
from fl.engines.engine import FAILED, GridProxy
from fl.engines.proxy import POLL_S
from fl.messages import records
from fl.messages.codec import Address
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext, Replica, SplitWorkload, Workload


@dataclass
class SplitSession:
    """Split training of one client: the message that it replaces, the server's side, and what goes down next.

    Args:
        most_steps: that the client's data can take; turns: that the server has answered.
    """

    message: Message
    replica: Replica
    content: RecordDict
    most_steps: int
    turns: int = 0

    def turn(self, up: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return what goes down next.

        Raises:
            ValueError: the client does not come to an end: a step takes at most two turns, and one more opens a round.
        """
        down, self.turns = self.replica.turn(up), self.turns + 1
        if self.turns > 2 * self.replica.steps + 2 or self.replica.steps > self.most_steps:
            raise ValueError(f"{self.turns} turns for {self.replica.steps} steps of at most {self.most_steps}")
        return down


def _is_split(message: Message) -> bool:
    """Return whether a message asks to train a model that was sent and comes back."""
    task: Mapping[str, object] = message.content.get(records.TASK, {})
    sent = records.MODEL in message.content
    return message.metadata.message_type == "train" and sent and bool(task.get("upload", True))


class SplitGrid(GridProxy):
    """A grid whose training messages are split sessions; all others pass.

    Args:
        inner: carries every message; at_once: most messages under way at a time, 0: all.
        most_examples: training samples that a client has at most.

    Raises:
        SettingsError: the workload has no cut.
    """

    def __init__(self, inner: Grid, workload: Workload, name: str, most_examples: int, at_once: int = 0):
        if not isinstance(workload, SplitWorkload):
            raise SettingsError(f"workload = '{name}' has no cut: use split = 'simulated'")
        super().__init__(inner)
        self.workload, self.most_examples, self.at_once = workload, most_examples, at_once

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies to all messages. A client that is not done after ``timeout`` seconds loses its round."""
        asked = list(messages)
        split = [m for m in asked if _is_split(m)]
        replies = list(self.inner.send_and_receive([m for m in asked if m not in split], timeout=timeout))
        ready, waiting = deque(self._open(message) for message in split), dict[str, SplitSession]()
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        while (ready or waiting) and time.monotonic() < end:
            free = (self.at_once or len(split)) - len(waiting)
            some = [ready.popleft() for _ in range(min(free, len(ready)))]
            names = self.inner.push_messages([self._message(session) for session in some])
            waiting |= {name: session for name, session in zip(names, some, strict=True) if name}
            answers = list(self.inner.pull_messages(list(waiting)))
            for answer in answers:
                if (session := waiting.pop(answer.metadata.reply_to_message_id, None)) is None:
                    continue
                if (last := self._answered(session, answer)) is None:
                    ready.append(session)
                else:
                    replies.append(last)
            if not answers:
                time.sleep(POLL_S)
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
        most_steps = 2 * (int(task["epochs"]) + 1) * self.most_examples  # type: ignore[arg-type]  # some workloads repeat
        return SplitSession(message, replica, RecordDict(content), most_steps)

    def _message(self, session: SplitSession) -> Message:
        where = session.message.metadata
        return Message(session.content, where.dst_node_id, "train.split", group_id=where.group_id)

    def _answered(self, session: SplitSession, answer: Message) -> Message | None:
        """Return the last reply of a session; None if the client has another turn."""
        if answer.has_error():
            return Message(answer.error, reply_to=session.message)
        try:
            node = answer.metadata.src_node_id
            if node != session.message.metadata.dst_node_id:
                raise ValueError(f"an answer of node {node}, which was not asked")
            if records.EDGE in answer.content:
                down = session.turn(dict(answer.content[records.EDGE]))  # type: ignore[arg-type]
                task = ConfigRecord({**session.content[records.TASK], "steps": session.replica.steps})  # type: ignore[dict-item]
                session.content = RecordDict({records.TASK: task, records.EDGE: ConfigRecord(down)})  # type: ignore[arg-type]
                return None
            report, model = records.metrics(answer.content), answer.content[records.MODEL]
            most = records.Lent(session.replica.for_client).count_bytes() + records.SPARE
            if model.count_bytes() > most:
                raise ValueError(f"a model of {model.count_bytes()} bytes, at most {most} were sent")
            more = session.replica.measures(int(report["num-examples"]))  # type: ignore[arg-type]
            report.update({f"trained.{name}": value for name, value in more.items()})
            whole = records.pack(session.replica.whole(records.unpack(model)))  # type: ignore[arg-type]
            return Message(RecordDict({records.REPORT: report, records.MODEL: whole}), reply_to=session.message)
        except Exception:  # no answer may end the run
            return Message(Error(FAILED, traceback.format_exc(limit=-3)), reply_to=session.message)
