"""What a client does with a message: read it, let workload and method work, encode the answer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl.client import poison, privacy
from fl.config import Settings
from fl.devices.machine import Machine
from fl.messages import records
from fl.messages.codec import Address, read_task, tensor_records
from fl.workloads.resolve import Run, from_flower, resolve
from fl.workloads.state_store import ClientStateStore, StateMissing, forget
from fl.workloads.workload import ClientContext, SplitWorkload, Trained
from models.submodel import State
from partitions.root import cache_folder
from strategies.core.client import ClientTrainer


@lru_cache(maxsize=8)
def _resolved(items: tuple[tuple[str, str | int | float | bool], ...]) -> Run:
    """Return the run of a run-config. Every message brings its own; a process resolves each once."""
    return resolve(from_flower(dict(items)), check=False)


def run_of(context: Context) -> Run:
    """Return the resolved run; a machine with a folder of its own data uses those as the data set."""
    config = dict(context.run_config)
    if config.get("devices.placement") == "own" and (data := Machine.parse(context.node_config).data):
        config |= {"spa.data": data} if config.get("workload") == "spa" else {"data.name": "folder", "data.root": data}
    return _resolved(tuple(sorted(config.items())))


def state_root(settings: Settings) -> Path:
    """Return the folder where clients keep their models."""
    root = settings.devices.state_root
    return Path(root).expanduser() if root else cache_folder() / "devices"


class Handler:
    """One message and everything that its answer needs.

    Raises:
        ValueError: the message asks for something that the run-config does not have.
    """

    def __init__(self, message: Message, context: Context, training: bool = False):
        self.message, self.run = message, run_of(context)
        self.record = message.content[records.TASK]
        assert isinstance(self.record, ConfigRecord)
        self.address, self.task = Address.of(self.record), read_task(message.content)
        self._check_bounds()
        settings, a = self.run.settings, self.address
        store = ClientStateStore.of(state_root(settings), a.run, a.method, a.seed, a.client, a.moment)
        machine = Machine.parse(context.node_config) if settings.devices.placement == "own" else None
        self.context = ClientContext(a.client, a.seed, a.round, a.step, store, a.look_back, machine)
        method = self.run.methods[a.method]
        self.half: Callable[[Any], ClientTrainer] = partial(
            method.strategy.Client, method.options, self.task, training=training
        )

    def _check_bounds(self) -> None:
        settings, a = self.run.settings, self.address
        bounds = {
            "client": (a.client, settings.devices.count - 1),
            "round": (a.round, settings.rounds),
            "step": (a.step, settings.rounds),  # each step of the world follows from the one before
            "epochs": (self.task.epochs, max(settings.client.local_epochs, settings.client.adapt_epochs)),
        }
        for what, (value, most) in bounds.items():
            if not 0 <= value <= most:
                raise ValueError(f"asked for {what} = {value}, the run-config says at most {most}")
        if a.method not in self.run.methods:
            raise ValueError(f"asked for method '{a.method}', the run-config has {', '.join(self.run.methods)}")

    def reply(self, report: dict[str, Any], **content: Any) -> Message:
        """Return an answer with a report, which says whose it is, and further records."""
        metrics = MetricRecord({"device": self.address.client, **report})
        return Message(RecordDict({records.REPORT: metrics, **content}), reply_to=self.message)

    def lost(self) -> Message:
        """Say that the client no longer has the state that it was asked to use."""
        return self.reply({"lost": 1})

    def trained(self, trained: Trained, pack: Callable[[State], ArrayRecord] = records.pack) -> Message:
        """Return the answer to a training task: the update, unless the client keeps it."""
        report: dict[str, Any] = {"num-examples": trained.examples, "loss": trained.loss, **trained.report}
        report |= {f"trained.{measure}": value for measure, value in trained.measures.items()}
        content: dict[str, Any] = {}
        if self.task.upload and trained.state is not None:
            update = self._outgoing(trained.state, trained.report)
            content = tensor_records(trained.tensors, pack) | {records.MODEL: pack(update)}
        return self.reply(report, **content)

    def _outgoing(self, upload: State, report: Mapping[str, Any]) -> State:
        """Return the update as it leaves the client: poisoned in experiments on that, clipped and noised if asked."""
        settings, c, sent = self.run.settings, self.context, self.task.start(report)
        if sent is not None and settings.poison.share:
            upload = poison.spoiled(settings.poison, settings.devices.count, c, sent, upload)
        if settings.client.update_clip:
            if sent is None:
                raise ValueError("noise needs the model that was sent, and none was; set client.update-clip = 0")
            upload = privacy.private_update(settings.client, c.noise(0), sent, upload)
        return upload


def query(message: Message, context: Context) -> Message:
    """Answer who the client is (placement own), forget a run, or say what the client can spare and needs."""
    what = message.content[records.TASK]["what"]
    if what == "hello":
        machine = Machine.parse(context.node_config)
        return Message(
            records.hello(machine.partition_id, machine.hardware(run_of(context).workload.measure)), reply_to=message
        )
    if what == "goodbye":
        forget(state_root(run_of(context).settings), str(message.content[records.TASK]["run"]))
        return Message(RecordDict(), reply_to=message)
    handler = Handler(message, context)
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            handler.context.store.save(name, records.unpack(record))
    limits = handler.run.workload.limits(handler.context)
    report = {"link": limits.link, "compute": limits.compute, "memory": limits.memory}
    more = handler.run.workload.profile(handler.context, handler.half) if what != "limits" else {}
    return handler.reply(report | more)


def train(message: Message, context: Context) -> Message:
    """Train locally. The update goes back unless the client keeps it or it hardly changed."""
    handler = Handler(message, context, training=True)
    try:
        trained = handler.run.workload.train(handler.context, handler.task, handler.half)
    except StateMissing:
        return handler.lost()
    return handler.trained(trained, records.Lent if context.node_config.get("lend") else records.pack)


def split(message: Message, context: Context) -> Message:
    """Take the client's turn in split training (`fl.server.split`)."""
    handler = Handler(message, context, training=True)
    workload, down = handler.run.workload, dict(message.content.get(records.EDGE, {}))
    assert isinstance(workload, SplitWorkload)
    steps = int(handler.record["steps"])  # type: ignore[arg-type]
    turn = workload.turn(handler.context, handler.task, handler.half, steps, down)  # type: ignore[arg-type]
    if isinstance(turn, Trained):
        handler.task = replace(handler.task, state=None)
        return handler.trained(turn)
    return handler.reply({}, **{records.EDGE: ConfigRecord(turn)})  # type: ignore[arg-type]


def evaluate(message: Message, context: Context) -> Message:
    """Score the model as delivered, and again after local adaptation."""
    handler = Handler(message, context)
    try:
        got = handler.run.workload.evaluate(handler.context, handler.task, handler.half)
    except StateMissing:
        return handler.lost()
    report: dict[str, Any] = {
        "num-examples": got.samples,
        "delivered": list(got.delivered),
        "adapted": list(got.adapted),
        "examples": got.examples,
        **({"former": list(got.former)} if got.former else {}),
        **({"macs": got.trial_macs} if got.trial_macs else {}),
        **got.report,
        **{f"{which}.{measure}": v for which, of in got.measures.items() for measure, v in of.items()},
    }
    return handler.reply(report)
