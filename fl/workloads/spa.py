"""Side Plugin Adaption: devices personalise a frozen language model by a small side network and a gate (`models.spa`).

What devices exchange is their side and gate, or less (``spa-personal``); the base is named in the config and never in
a message. Here a device has the base beside it; with ``split = "messages"`` `fl.server.split` keeps it in the ServerApp while
devices train, and sends what it says. Both are the two sides of `models.spa.session`, so they give the same numbers.
Strategies: ``na`` (the base), ``la`` (each device alone), ``fedavg``, and its ``+ft`` rows, FedAvg and then local
epochs. A device is a person of `partitions.personas`, or a file of JSON lines.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from fl.config.settings import Settings, SettingsError
from fl.devices.hardware import Table, shares
from fl.server.measures import NAN
from fl.workloads.pretraining import cache_folder
from fl.workloads.state_store import NotHeld, Store
from fl.workloads.workload import Order, Scored, Trained, refuse_whole_models
from models.costs import CostModel
from models.modular.model import Progress
from models.spa import bases
from models.spa.activations import Activations, Known
from models.spa.body import architecture, own, shared
from models.spa.codec import LONGEST, Frame, Ledger
from models.spa.gate import Gate
from models.spa.metrics import judge, rates
from models.spa.modes import mode
from models.spa.session import CloudSide, DeviceSide
from models.spa.session import train as train_plugin
from models.spa.side import SIDES, SideSpec, every
from models.spa.tiny import SIZES
from models.spa.train import Plugin, Training
from models.submodel import State
from partitions import Purpose, Schedule, rng
from partitions.personas import Example, Files, Personas, Split
from strategies import FULL_MODEL
from strategies.base import Cloud, Strategy

SCORES: dict[str, str] = {
    "M": "share of answer tokens whose side is asked, under teacher forcing",
    "exact": "share of answers without a wrong token",
    "diff": "share of answer tokens at which base and side guess differently",
    "diff_pick": "share at which they differ and the side is asked",
    "waste": "share asked among those at which they guess the same",
    "base_accuracy": "token accuracy of the base alone",
    "side_accuracy": "token accuracy if the side were always asked",
}
MEASURES = SCORES | {
    "train_up": "payload bytes per example of a round that a device with the base elsewhere sends to train",
    "train_down": "payload bytes per example of a round that it receives to train: states once, and gradients",
}
TOKENS = 16  # of an answer, for the clock: what one example costs
ADAM = 2  # numbers that AdamW keeps per parameter


def prepare(settings: Settings, seed: int, progress: Progress | None = None) -> Cloud:
    """A plugin that changes nothing yet. Training of the tiny base is left to when it is first needed.

    Raises:
        SettingsError, partitions.DataError: people, base, methods and settings do not fit.
    """
    plain = [name for name, of in FULL_MODEL.items() if of.masked == "none"]
    if others := [name for name in settings.methods if name not in plain]:
        raise SettingsError(
            f"strategy '{others[0]}' cuts the model or counts its classes, workload 'spa' has neither: "
            f"use {', '.join(plain)}"
        )
    if settings.split == "messages" and training(settings).joint:
        raise SettingsError(f"spa-gate = '{settings.spa_gate}' needs the base beside it: use 'two-stage'")
    refuse_whole_models(settings)
    spec = side_spec(settings)
    people(settings, seed).examples(0, 0, "train")
    plugin = architecture(spec, settings.spa_personal, TOKENS)
    costs = CostModel(plugin, settings.batch_size, ADAM)

    def initial() -> State:
        base(settings, progress)
        return shared(fresh(settings, seed).state(), settings.spa_personal)

    def none(*_: object) -> NoReturn:
        raise SettingsError("workload 'spa' has no model that can be cut")

    return Cloud(
        dense=plugin, dense_costs=costs, modular=plugin, modular_costs=costs, supernet=plugin, supernet_costs=costs,
        shares=(), make_dense=initial, make_modular=none, make_nested=none, make_supernet=none, settled=none,
    )  # fmt: skip


def global_accuracy(settings: Settings, method: Strategy) -> float:
    """NaN: people's private answers contradict each other, so no test set is everybody's."""
    return NAN


def profile(settings: Settings, order: Order, store: Store, with_importance: bool) -> dict[str, float | list[float]]:
    """What the device can spare now; it has no modules."""
    table = Table.of(settings.hardware)
    hardware, limits = table.draw(order.seed, order.device), (settings.limit_low, settings.limit_high)
    now = shares(table, hardware, order.seed, order.device, order.step, *limits, settings.background_load)
    return {"link": now.link, "compute": now.compute, "memory": now.memory}


def train(settings: Settings, order: Order, store: Store, state: State | None) -> Trained:
    """Local epochs of the side and a new fit of the gate."""
    ledger = Ledger()
    plugin, loss = _fit(settings, order, _load(settings, order, store, state), ledger)
    examples = len(people(settings, order.seed).examples(order.device, order.step, "train"))
    return replace(_done(settings, order, store, plugin, examples, loss), measures=_crossed(settings, ledger, examples))


def _done(settings: Settings, order: Order, store: Store, plugin: Plugin, examples: int, loss: float) -> Trained:
    """What a round gave; what is personal stays here."""
    after = plugin.state()
    if settings.spa_personal != "nothing":
        store.save("personal", own(after, settings.spa_personal))
    if order.keep:
        store.save("model", shared(after, settings.spa_personal))
    return Trained(shared(after, settings.spa_personal), examples, 0.0 if math.isnan(loss) else loss)


def _crossed(settings: Settings, ledger: Ledger, examples: int) -> dict[str, float]:
    """What training sends across the cut, where it has one."""
    if training(settings).joint or not examples:
        return {}
    return {"train_up": ledger.bytes("up") / examples, "train_down": ledger.bytes("down") / examples}


def evaluate(settings: Settings, order: Order, store: Store, state: State | None) -> Scored:
    """Score a plugin on the device's test questions, as delivered and after ``order.epochs`` of adaptation."""
    plugin = _load(settings, order, store, state)
    steps = [order.step, order.step - 1] if order.look_back else [order.step]
    delivered = adapted = [_judged(settings, order, plugin, step) for step in steps]
    if order.epochs:
        plugin, _ = _fit(settings, order, plugin)
        adapted = [_judged(settings, order, plugin, step) for step in steps]
    if order.keep:
        store.save("model", shared(plugin.state(), settings.spa_personal))
        if settings.spa_personal != "nothing":
            store.save("personal", own(plugin.state(), settings.spa_personal))
    both = {"delivered": delivered, "adapted": adapted}
    scores = {which: (got[0]["token_accuracy"], got[0]["token_accuracy"], got[0]["ce"]) for which, got in both.items()}
    former = (delivered[1]["token_accuracy"], adapted[1]["token_accuracy"]) if order.look_back else None
    who = people(settings, order.seed)
    return Scored(
        len(who.examples(order.device, order.step, "test")), scores["delivered"], scores["adapted"],
        len(who.examples(order.device, order.step, "train")), former,
        measures={which: {k: got[0][k] for k in SCORES} for which, got in both.items()},  # type: ignore[misc]
    )  # fmt: skip


# really split


class Replica:
    """The cloud's side of one device's round, which begins when the device has told its examples."""

    def __init__(self, settings: Settings, state: State):
        self.settings, self.for_device = settings, state
        self.side: CloudSide | None = None

    @property
    def steps(self) -> int:
        return self.side.step if self.side else 0

    def turn(self, up: Mapping[str, bytes]) -> dict[str, bytes]:
        """What goes down, given what came up. ValueError, Broken: what came up does not belong here."""
        frame = Frame.of_blob(up["frame"])
        if self.side is None:
            examples = [Example(**{name: str(text) for name, text in of.items()}) for of in frame.head["examples"]]
            self.side = CloudSide(base(self.settings), training(self.settings), self._known(examples))
            return {"frame": self.side.states().blob()}
        return {"frame": self.side.turn(frame).blob()}

    def _known(self, examples: list[Example]) -> list[Known]:
        spec, here = side_spec(self.settings), base(self.settings)
        tokens = sum(len(part) for example in examples for part in here.encode(example))
        if (size := 4 * tokens * len(spec.states) * spec.width) > LONGEST:
            raise ValueError(f"{len(examples)} examples whose states take {size} bytes; {LONGEST} are the most")
        return _activations(self.settings)(examples)

    def whole(self, trained: State) -> State:
        """All that is shared was with the device."""
        return trained

    def measures(self, examples: int) -> dict[str, float]:
        assert self.side is not None
        return _crossed(self.settings, self.side.ledger, examples)


def replica(settings: Settings, order: Order, state: State) -> Replica:
    return Replica(settings, state)


AT_ONCE = 64  # rounds that a process keeps in memory; the others are read from their stores
_SIDES: dict[Path, DeviceSide] = {}  # rounds that this process is in the middle of


def turn(
    settings: Settings, order: Order, store: Store, steps: int, down: Mapping[str, bytes], state: State | None
) -> dict[str, bytes] | Trained:
    """The device's answer to what came down; what it needs to go on lies in its store after every step."""
    talk = Store(store.folder / "split")  # a round that the cloud goes back to begins anew
    if state is not None:
        talk.save("start", _load(settings, order, store, state).state())
        _SIDES.pop(talk.folder, None)  # of a round that broke off
        told = [asdict(example) for part in _examples(settings, order) for example in part]
        return {"frame": Frame("examples", {"examples": told}).blob()}
    frame = Frame.of_blob(down["frame"])
    if frame.kind == "states":
        talk.save("states", {"start": torch.tensor(frame.head["start"]), **frame.tensors})
    side = _side(settings, order, talk, steps - (frame.kind != "states"))
    if up := side.turn(frame):
        talk.save("side", side.state())
        return {"frame": up.blob()}
    del _SIDES[talk.folder]
    shutil.rmtree(talk.folder)
    return _done(settings, order, store, side.plugin, side.learn, side.loss)


def _side(settings: Settings, order: Order, talk: Store, done: int) -> DeviceSide:
    """The device's side with so many steps behind it, built anew where this process has not got it.

    Another process may have taken the turns since this one had the last.

    Raises:
        fl.workloads.state_store.NotHeld: the store holds no such moment.
    """
    found = _SIDES.get(talk.folder)
    if found is None or found.done != done:
        learn, calibrate = map(len, _examples(settings, order))
        plugin = fresh(settings, 0).loaded(talk.load("start"))
        found = DeviceSide(plugin, training(settings), learn, calibrate, order.epochs, _shuffling(order))
        states = talk.load("states")
        found.told(Frame("states", {"start": states.pop("start").tolist()}, states))
        if done:
            found.restore(talk.load("side"))
        if found.done != done:
            raise NotHeld(f"device {order.device} has {found.done} steps behind it, not {done}")
        if len(_SIDES) >= AT_ONCE:
            _SIDES.clear()
        _SIDES[talk.folder] = found
    return found


# what cloud and devices make of the settings alike


def base(settings: Settings, progress: Progress | None = None) -> bases.Base:
    """The frozen base, once per process.

    Raises:
        SettingsError: it is not the one that ``base-checksum`` names.
        partitions.DataError: it is missing.
    """
    torch.set_num_threads(1)
    loaded = bases.load(settings.base, cache_folder(), settings.tiny_steps, progress)
    if settings.base_checksum and not loaded.checksum.startswith(settings.base_checksum):
        raise SettingsError(
            f"base '{settings.base}' has checksum {loaded.checksum[:16]}..., base-checksum asks for "
            f"{settings.base_checksum[:16]}; give every machine the same folder"
        )
    return loaded


@lru_cache(maxsize=8)
def side_spec(settings: Settings) -> SideSpec:
    """What the side network is; needs the base's configuration, not its weights."""
    if settings.base == bases.TINY:
        width, layers = SIZES["hidden_size"], SIZES["num_hidden_layers"]
    else:
        width, layers = bases.sizes(bases.find(settings.base, cache_folder()))
    states, zero = every(layers, settings.spa_every), mode(settings.spa_mode).plugged
    try:
        return SideSpec(settings.spa_side, width, states, settings.spa_reduction, zero)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def training(settings: Settings) -> Training:
    """How devices train."""
    return Training(
        settings.spa_mode, settings.spa_gate, settings.spa_price, settings.spa_policy, settings.lr, settings.batch_size
    )  # fmt: skip


def fresh(settings: Settings, seed: int) -> Plugin:
    """A plugin that was never trained; its gate is open until it is first fitted."""
    spec = side_spec(settings)
    return Plugin(spec.build(int(rng(seed, Purpose.INIT).integers(2**31))), Gate.constant(spec.width, open_=True))


class Scheduled:
    """People who change at the steps of the schedule alone."""

    def __init__(self, who: Personas, schedule: Schedule):
        self._who, self._schedule = who, schedule

    def examples(self, device: int, step: int, split: Split) -> list[Example]:
        return self._who.examples(device, self._schedule.count(step), split)


@lru_cache(maxsize=8)
def people(settings: Settings, seed: int) -> Scheduled | Files:
    """Whom the devices belong to.

    Raises:
        partitions.DataError: ``spa-data`` lacks a device's file.
    """
    if settings.spa_data:
        return Files(Path(settings.spa_data).expanduser(), settings.devices)
    who = Personas(seed, settings.spa_facts, skew=settings.alpha, change=settings.drift_fraction)
    return Scheduled(who, Schedule(settings.schedule))


@lru_cache(maxsize=2)
def _activations(settings: Settings) -> Activations:
    """What the base said of examples, for as long as this process lives."""
    spec = side_spec(settings)
    return Activations(base(settings), spec.states, SIDES[spec.kind].attends)


@lru_cache(maxsize=2)
def _plugin(settings: Settings) -> Plugin:
    """One side per process, overwritten by every device."""
    return fresh(settings, 0)


def _load(settings: Settings, order: Order, store: Store, state: State | None) -> Plugin:
    """The plugin that was sent, or that the device kept, with what is personal of its own."""
    sent = state if state is not None else store.load("model")
    if settings.spa_personal != "nothing":
        mine = store.load("personal") if store.holds("personal") else fresh(settings, order.seed).state()
        sent = sent | own(mine, settings.spa_personal)
    return _plugin(settings).loaded(sent)


def _fit(settings: Settings, order: Order, plugin: Plugin, ledger: Ledger | None = None) -> tuple[Plugin, float]:
    learn, calibrate = map(_activations(settings), _examples(settings, order))
    how, shuffling = training(settings), _shuffling(order)
    return train_plugin(base(settings), plugin, how, learn, calibrate, order.epochs, shuffling, ledger)


def _examples(settings: Settings, order: Order) -> tuple[list[Example], list[Example]]:
    """What a device learns from, and what its gate is fitted on."""
    who, gated = people(settings, order.seed), mode(settings.spa_mode).gated
    learn = who.examples(order.device, order.step, "train")
    return learn, who.examples(order.device, order.step, "calibrate") if gated else []


def _shuffling(order: Order) -> np.random.Generator:
    return rng(order.seed, Purpose.TRAIN, order.round, order.device)


def _judged(settings: Settings, order: Order, plugin: Plugin, step: int) -> dict[str, float]:
    """`models.spa.metrics.rates` of the device's test questions, and the accuracies of base and side."""
    test = _activations(settings)(people(settings, order.seed).examples(order.device, step, "test"))
    judged = judge(base(settings), plugin, settings.spa_mode, test, settings.spa_policy)
    asked = judged.score > plugin.gate.tau if mode(settings.spa_mode).gated else np.ones(len(judged.score), bool)
    alone = {"base_accuracy": float(judged.base_right.mean()), "side_accuracy": float(judged.side_right.mean())}
    return rates(judged, asked) | alone
