"""Side Plugin Adaption: devices personalise a frozen language model by a small side network and a gate (`models.spa`).

What devices exchange is their side and gate, or less (``spa-personal``); the base is named in the config and never in
a message. Strategies: ``na`` (the base), ``la`` (each device alone), ``fedavg``, and its ``+ft`` rows, FedAvg and then
local epochs. A device is a person of `partitions.personas`, or a file of JSON lines.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from fl.config import Settings, SettingsError
from fl.devices import Table, shares
from fl.measures import NAN
from fl.offline import cache_folder
from fl.store import Store
from fl.workloads.workload import Order, Scored, Trained
from models.axes import State
from models.cloud import Progress
from models.costs import CostModel
from models.spa import bases
from models.spa.activations import Activations
from models.spa.body import architecture, own, shared
from models.spa.gate import Gate
from models.spa.metrics import judge, rates
from models.spa.modes import mode
from models.spa.side import SIDES, SideSpec, every
from models.spa.tiny import SIZES
from models.spa.train import Plugin, Training
from models.spa.train import train as train_plugin
from partitions import Purpose, Schedule, rng
from partitions.personas import Example, Files, Personas, Split
from strategies import UNCUT
from strategies.base import Cloud, Strategy

MEASURES: dict[str, str] = {
    "M": "share of answer tokens whose side is asked, under teacher forcing",
    "exact": "share of answers without a wrong token",
    "diff": "share of answer tokens at which base and side guess differently",
    "diff_pick": "share at which they differ and the side is asked",
    "waste": "share asked among those at which they guess the same",
    "base_accuracy": "token accuracy of the base alone",
    "side_accuracy": "token accuracy if the side were always asked",
}
TOKENS = 16  # of an answer, for the clock: what one example costs
ADAM = 2  # numbers that AdamW keeps per parameter


def prepare(settings: Settings, seed: int, progress: Progress | None = None) -> Cloud:
    """A plugin that changes nothing yet. Training of the tiny base is left to when it is first needed.

    Raises:
        SettingsError, partitions.DataError: people, base, methods and settings do not fit.
    """
    plain = [name for name, of in UNCUT.items() if of.masked == "none"]
    if others := [name for name in settings.methods if name not in plain]:
        raise SettingsError(
            f"strategy '{others[0]}' cuts the model or counts its classes, workload 'spa' has neither: "
            f"use {', '.join(plain)}"
        )
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
    """Local epochs of the side and a new fit of the gate; what is personal stays here."""
    plugin = _load(settings, order, store, state)
    plugin, loss = _fit(settings, order, plugin)
    after = plugin.state()
    if settings.spa_personal != "nothing":
        store.save("personal", own(after, settings.spa_personal))
    if order.keep:
        store.save("model", shared(after, settings.spa_personal))
    examples = people(settings, order.seed).examples(order.device, order.step, "train")
    return Trained(shared(after, settings.spa_personal), len(examples), 0.0 if math.isnan(loss) else loss)


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
        measures={which: {k: got[0][k] for k in MEASURES} for which, got in both.items()},  # type: ignore[misc]
    )  # fmt: skip


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


def _fit(settings: Settings, order: Order, plugin: Plugin) -> tuple[Plugin, float]:
    who, known = people(settings, order.seed), _activations(settings)
    learn = known(who.examples(order.device, order.step, "train"))
    calibrate = known(who.examples(order.device, order.step, "calibrate"))
    generator = rng(order.seed, Purpose.TRAIN, order.round, order.device)
    return train_plugin(base(settings), plugin, training(settings), learn, calibrate, order.epochs, generator)


def _judged(settings: Settings, order: Order, plugin: Plugin, step: int) -> dict[str, float]:
    """`models.spa.metrics.rates` of the device's test questions, and the accuracies of base and side."""
    test = _activations(settings)(people(settings, order.seed).examples(order.device, step, "test"))
    judged = judge(base(settings), plugin, settings.spa_mode, test, settings.spa_policy)
    asked = judged.score > plugin.gate.tau if mode(settings.spa_mode).gated else np.ones(len(judged.score), bool)
    alone = {"base_accuracy": float(judged.base_right.mean()), "side_accuracy": float(judged.side_right.mean())}
    return rates(judged, asked) | alone
