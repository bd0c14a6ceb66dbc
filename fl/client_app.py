"""The ClientApp: one device, or a host that stands in for the device that a message names."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: measured faster than two on models of this size

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl import workloads
from fl.client import poison, privacy
from fl.config.settings import Settings
from fl.devices.machine import Node
from fl.messages import records as wire
from fl.workloads.state_store import NotHeld, Store, forget
from fl.workloads.workload import Order, SplitWorkload, Trained
from models.submodel import State
from partitions.root import cache_folder

torch.set_num_threads(1)
app = ClientApp()


@lru_cache(maxsize=8)
def _settings(items: tuple[tuple[str, str | int | float | bool], ...]) -> Settings:
    return Settings.parse(dict(items))


def _settings_of(context: Context) -> Settings:
    """The run's settings; a machine with data of its own takes those for the data set."""
    settings = _settings(tuple(sorted(context.run_config.items())))
    if settings.placement == "own" and (data := Node.parse(context.node_config).data):
        return settings.model_copy(update={"dataset": "folder", "data_root": data})
    return settings


def state_root(settings: Settings) -> Path:
    """Where devices keep models of their own."""
    return Path(settings.state_root).expanduser() if settings.state_root else cache_folder() / "devices"


def _read(message: Message, context: Context) -> tuple[Settings, Order, Store, ConfigRecord]:
    settings = _settings_of(context)
    task = message.content[wire.TASK]
    assert isinstance(task, ConfigRecord)
    order = Order(
        device=int(task["device"]),  # type: ignore[arg-type]
        seed=int(task["seed"]),  # type: ignore[arg-type]
        round=int(task["round"]),  # type: ignore[arg-type]
        step=int(task["step"]),  # type: ignore[arg-type]
        architecture=str(task.get("architecture", "dense")),
        sizes={k.removeprefix("size."): v for k, v in task.items() if k.startswith("size.")},  # type: ignore[misc]
        held={k.removeprefix("held."): v for k, v in task.items() if k.startswith("held.")},  # type: ignore[misc]
        epochs=int(task.get("epochs", 0)),  # type: ignore[arg-type]
        masked=task.get("masked", "none"),  # type: ignore[arg-type]
        shares=task.get("shares", []),  # type: ignore[arg-type]
        rate=float(task.get("rate", 1.0)),  # type: ignore[arg-type]
        keep=bool(task.get("keep", False)),
        rates=task.get("rates", []),  # type: ignore[arg-type]
        blend=float(task.get("blend", 1.0)),  # type: ignore[arg-type]
        search=bool(task.get("search", False)),
        reselect=bool(task.get("reselect", False)),
        look_back=bool(task.get("look-back", False)),
        node=Node.parse(context.node_config) if settings.placement == "own" else None,
    )
    bounds = {
        "device": (order.device, settings.devices - 1),
        "round": (order.round, settings.rounds),
        "step": (order.step, settings.rounds),  # each step of the world follows from the one before
        "epochs": (order.epochs, max(settings.local_epochs, settings.adapt_epochs)),
    }
    for what, (value, most) in bounds.items():
        if not 0 <= value <= most:
            raise ValueError(f"asked for {what} = {value}, the run-config says at most {most}")
    run, method, moment = str(task["run"]), str(task["method"]), int(task["moment"])  # type: ignore[arg-type]
    store = Store.of(state_root(settings), run, method, order.seed, order.device, moment)
    return settings, order, store, task


def _model(message: Message) -> State | None:
    record = message.content.get(wire.MODEL)
    return None if record is None else wire.shared(record)  # type: ignore[arg-type]


@app.query()
def query(message: Message, context: Context) -> Message:
    """Who am I, and goodbye (a SuperNode of its own); or: what can the device spare, and what does it need?"""
    task = message.content[wire.TASK]
    if task["what"] == "hello":
        node = Node.parse(context.node_config)
        return Message(wire.hello(node.partition_id, node.hardware(_settings_of(context))), reply_to=message)
    if task["what"] == "goodbye":
        forget(state_root(_settings_of(context)), str(task["run"]))
        return Message(RecordDict(), reply_to=message)
    settings, order, store, task = _read(message, context)
    if wire.SELECTOR in message.content:
        store.save("selector", wire.unpack(message.content[wire.SELECTOR]))  # type: ignore[arg-type]
    told: dict[str, float | list[float]] = {"device": order.device}
    profile = workloads.find(settings.workload).profile
    told |= profile(settings, order, store, with_importance=task["what"] == "importance")
    if settings.importance_noise:
        exact = {name: values for name, values in told.items() if name.startswith("importance.")}
        told |= privacy.private_importance(settings, order, exact)  # type: ignore[arg-type]
    return Message(RecordDict({wire.REPORT: MetricRecord(told)}), reply_to=message)  # type: ignore[arg-type]


def _lost(message: Message, order: Order) -> Message:
    return Message(RecordDict({wire.REPORT: MetricRecord({"device": order.device, "lost": 1})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local epochs; the trained part goes back unless the device keeps it to itself or it hardly changed."""
    settings, order, store, task = _read(message, context)
    sent = _model(message)
    try:
        trained = workloads.find(settings.workload).train(settings, order, store, sent)
    except NotHeld:
        return _lost(message, order)
    pack = wire.Lent if context.node_config.get("lend") else wire.pack
    return _trained(message, settings, order, task, trained, sent, pack)


@app.train("split")
def split(message: Message, context: Context) -> Message:
    """The device's turn in split training (`fl.server.split`)."""
    settings, order, store, task = _read(message, context)
    workload = workloads.find(settings.workload)
    assert isinstance(workload, SplitWorkload)
    down = dict(message.content.get(wire.EDGE, {}))
    told = workload.turn(settings, order, store, int(task["steps"]), down, _model(message))  # type: ignore[arg-type]
    if isinstance(told, Trained):
        return _trained(message, settings, order, task, told, None)
    content = RecordDict({wire.REPORT: MetricRecord({"device": order.device}), wire.EDGE: ConfigRecord(told)})  # type: ignore[arg-type]
    return Message(content, reply_to=message)


def _trained(
    message: Message,
    settings: Settings,
    order: Order,
    task: ConfigRecord,
    trained: Trained,
    sent: State | None,
    pack: Callable[[State], ArrayRecord] = wire.pack,
) -> Message:
    report: dict[str, int | float | list[int]] = {
        "device": order.device,
        "num-examples": trained.examples,
        "loss": trained.loss,
    }
    if order.masked == "zero":
        report |= {"classes": list(trained.classes)}
    report |= {f"active.{layer}": n for layer, n in trained.active.items()}
    report |= {f"trained.{measure}": value for measure, value in trained.measures.items()}
    content = RecordDict({wire.REPORT: MetricRecord(report)})  # type: ignore[arg-type]
    if task.get("upload", True) and trained.state is not None:
        upload = trained.state
        if sent is not None and settings.poisoned:
            upload = poison.spoiled(settings, order, sent, upload)
        if settings.update_clip:
            if sent is None:  # not: send it as it is
                raise ValueError("an update can be noised only where the model was sent along; set update-clip = 0")
            upload = privacy.private_update(settings, order, sent, upload)
        content[wire.MODEL] = pack(upload)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score what was delivered, and again after local adaptation."""
    settings, order, store, _ = _read(message, context)
    try:
        got = workloads.find(settings.workload).evaluate(settings, order, store, _model(message))
    except NotHeld:
        return _lost(message, order)
    report = MetricRecord(
        {
            "device": order.device,
            "num-examples": got.samples,
            "delivered": list(got.delivered),
            "adapted": list(got.adapted),
            "examples": got.examples,
        }
        | ({"former": list(got.former)} if got.former else {})
        | ({"macs": got.trial_macs} if got.trial_macs else {})
        | {f"active.{layer}": n for layer, n in got.active.items()}  # type: ignore[arg-type]
        | {f"{which}.{measure}": v for which, of in got.measures.items() for measure, v in of.items()}
    )
    return Message(RecordDict({wire.REPORT: report}), reply_to=message)
